"""A web page and a JSON call over a Predictor, for `-m serve`.

`Service` answers, whoever asks; `serving` puts a server in front of it. What the page
looks like is in `util.deploy.page`. Gradio is imported inside functions.
"""

import contextlib
import os
import socket
import sys
import tempfile
import threading
import time
import warnings
from typing import Any, Dict, Iterator, NamedTuple, Optional

import numpy as np
from PIL import Image

from util.core.errors import UserError
from util.core.signals import Listener
from util.data import im_processing
from util.deploy import connections, page
from util.deploy.guard import MAX_UPLOAD_BYTES, Guard, own_names
from util.deploy.store import GONE, Store
from util.graph import checkpoint
from util.inference.prediction import Prediction, describe, run_lengths
from util.inference.predictor import Predictor, vocabulary_of

MAX_UPLOAD_PIXELS = 25 * 10**6
MAX_LETTERS = 1000  # of a sentence
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "TIFF")  # Pillow's names
REMEMBERED = 4  # images
MAX_WAITING = 32  # requests
MAX_SESSIONS = 200  # whose history is kept; each call of README's is one
MAX_MESSAGES = 200  # of a session, that nobody has fetched
CLEANED_S = 10  # seconds between two looks for what is old
# Gradio and its parts read these when they are imported.
QUIET = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_ANALYTICS_MAX_EVENTS": "100",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
}


class Answer(NamedTuple):
    """What a sentence refers to.

    Attributes:
      image: uint8 [H, W, 3], as it was uploaded.
      prediction: all about the object.
      record: the same for JSON: `predictor.describe`, and "mask", see
        `predictor.run_lengths`, and "seconds".
    """

    image: np.ndarray
    prediction: Prediction
    record: Dict[str, Any]


class Service:
    """Answers one question at a time, from any thread.

    Args:
      predictor: the network; it is the service's from now on.

    Attributes:
      levels, about_levels: see `Predictor`.
    """

    def __init__(self, predictor: Predictor) -> None:
        self._predictor, self.levels = predictor, predictor.levels
        self.about_levels = predictor.about_levels
        self._turn = threading.Lock()

    def answer(
        self, path: Optional[str], sentence: str, with_dense_crf: bool = False
    ) -> Answer:
        """Segment a sentence on an uploaded image.

        Args:
          path: the image; None: there is none. Errors name the file, not its folder.
          sentence: at most MAX_LETTERS.
          with_dense_crf: refine the mask.

        Raises:
          UserError: image or sentence is missing, too large or cannot be read.
        """
        if path is None:
            raise UserError("choose an image first")
        if len(sentence) > MAX_LETTERS:
            raise UserError(
                f"the sentence has {len(sentence)} letters, more than {MAX_LETTERS}: "
                "make it shorter"
            )
        with self._turn:
            begin = time.time()
            self._predictor.ids(sentence)  # no word, no work
            image = read_upload(path)
            self._predictor.set_image(image)
            prediction = self._predictor.segment(sentence, with_dense_crf)
            record = describe(prediction)
            record["mask"] = run_lengths(prediction.mask)
            record["seconds"] = time.time() - begin
        return Answer(image, prediction, record)

    def close(self) -> None:
        """Free the network after the answer under way."""
        with self._turn:
            self._predictor.close()


def read_upload(path: str) -> np.ndarray:
    """Read an image that anybody may have sent.

    Its header decides whether its pixels are read.

    Returns:
      uint8 [H, W, 3], RGB.

    Raises:
      UserError: it is too large, damaged, not an image, or gone.
    """
    name = os.path.basename(path)
    if not os.path.isfile(path):
        raise UserError(GONE)
    if os.path.getsize(path) > MAX_UPLOAD_BYTES:
        raise UserError(
            f"{name} has more than {MAX_UPLOAD_BYTES // 10**6} MB: make it smaller"
        )
    form, num_pixels = _header(path)
    if form not in FORMATS:
        raise UserError(
            f"{name} is damaged or not an image; good are {', '.join(FORMATS)}"
        )
    if num_pixels > MAX_UPLOAD_PIXELS:
        raise UserError(
            f"{name} has more than {MAX_UPLOAD_PIXELS // 10**6} million pixels: make "
            "it smaller"
        )
    try:
        return im_processing.read_image(path)
    except UserError as error:
        raise UserError(str(error).replace(path, name)) from error


def _header(path):
    """Return format and number of pixels; (None, 0) of what is not an image."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=im_processing.formats()) as file:
                return file.format, file.size[0] * file.size[1]
    except Image.DecompressionBombError:
        return FORMATS[0], MAX_UPLOAD_PIXELS + 1
    except Exception:  # Pillow's readers raise anything on damaged files
        return None, 0


# --- The server


def run(args) -> int:
    """Serve a snapshot until Ctrl-C or SIGTERM.

    Args:
      args: options of `trainval_model.py -m serve`.

    Returns:
      The exit code.

    Raises:
      UserError: no Gradio, no snapshot, or nobody can listen at that address.
    """
    import_gradio()
    check_address(args.host, args.port)
    snapshot = checkpoint.find(args.folder, args.dataset, args.iteration)
    vocabulary = args.vocabulary or vocabulary_of(snapshot, args.data)
    predictor = Predictor(
        snapshot, vocabulary, args.precision, REMEMBERED, args.model, args.crf_backend
    )
    service = Service(predictor)
    quiet = contextlib.redirect_stderr(connections.Log(sys.stderr))
    with contextlib.closing(service), Listener() as signals, quiet:
        with serving(service, args.host, args.port, args.dataset == "shapes") as url:
            print(f"the page: {url} (Ctrl-C ends)", flush=True)
            while not signals.heard:
                time.sleep(0.1)
    return 0


@contextlib.contextmanager
def serving(
    service: Service, host: str, port: int, has_examples: bool = False
) -> Iterator[str]:
    """Serve the page and the JSON call while the `with` lasts.

    Files that come up and down lie in a temporary folder, which goes at the end.

    Args:
      service: answers.
      host: address to listen at.
      port: likewise; see `check_address`.
      has_examples: offer drawn images of `shapes`.

    Yields:
      The URL of the page.

    Raises:
      UserError: there is no Gradio, or nobody can listen there.
    """
    gradio = import_gradio()
    from starlette.applications import Starlette
    from starlette.middleware import Middleware

    with tempfile.TemporaryDirectory(prefix="refseg-web-") as folder:
        store = Store(folder)
        os.environ["GRADIO_TEMP_DIR"] = store.folder
        # It read that when it was imported, and makes a folder there that stays.
        gradio.routes.DEFAULT_TEMP_DIR = store.folder
        examples = page.draw_examples(store.folder) if has_examples else []

        def answer(path, sentence, with_dense_crf):
            return service.answer(store.check(path), sentence, with_dense_crf)

        levels = service.levels, service.about_levels
        blocks = page.build(answer, store, examples, MAX_LETTERS, *levels)
        blocks.queue(max_size=MAX_WAITING, api_open=False)
        blocks.state_session_capacity = MAX_SESSIONS
        # Gradio's own middleware answers some requests: the guard is before it.
        app = Starlette(middleware=[Middleware(Guard, store, own_names(host))])
        gradio.mount_gradio_app(
            app,
            blocks,
            path="/",
            show_error=False,
            footer_links=["api"],
            run_history=False,
            enable_monitoring=False,
            mcp_server=False,
            ssr_mode=False,
            pwa=False,
            max_file_size=MAX_UPLOAD_BYTES,
            theme=gradio.themes.Default(**page.LOOK),
            css=page.CSS,
        )
        with connections.running(app, host, port) as url:
            with _repeated(lambda: _clean(store, blocks)):
                try:
                    yield url
                finally:
                    _end_streams(app, blocks)


def _end_streams(app, blocks):
    """Tell Gradio's endless answers, which an open page waits for, to end."""
    blocks._queue.close()
    for mounted in app.routes:
        mounted.app.stop_event.set()


@contextlib.contextmanager
def _repeated(do):
    """Do something each CLEANED_S seconds while the `with` lasts, also after errors."""
    ended = threading.Event()

    def repeat():
        while not ended.wait(CLEANED_S):
            try:
                do()
            except Exception as error:  # the next time may go well
                print(f"clean-up: {error!r}", file=sys.stderr, flush=True)

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _clean(store, blocks):
    """Remove old files, and from Gradio's memory the names of those that are gone.

    Gradio's own clean-up (`delete_cache`) ends for good when a name that it
    remembers is that of a folder.
    """
    store.clean()
    for names in blocks.temp_file_sets:
        for name in list(names):
            if not os.path.isfile(name):
                names.discard(name)
    _forget_answers(blocks._queue)


def _forget_answers(queue):
    """Forget the oldest answers that nobody has fetched; no option bounds them."""
    answers, asked = queue.pending_messages_per_session, queue.pending_event_ids_session
    events = list(queue.event_ids_to_events.values())
    waiting = {event._id for event in events}
    sessions = {event.session_hash for event in events}
    old = [session for session in list(answers) if session not in sessions]
    for session in old[: max(0, len(old) - MAX_SESSIONS)]:
        answers.pop(session, None)
    for messages in list(answers.values()):
        while messages.qsize() > MAX_MESSAGES:
            messages.get_nowait()
    for session, ids in list(asked.items()):
        if session not in answers and session not in sessions:
            asked.pop(session, None)
        elif len(ids) > MAX_MESSAGES:
            ids.intersection_update(waiting)


def import_gradio():
    """Return the module, set up to call nobody.

    Raises:
      UserError: it is not installed, or cannot be on this Python.
    """
    os.environ.update(QUIET)
    try:
        import gradio
    except ImportError as error:
        raise UserError(
            "-m serve needs Gradio: pip install -e '.[web]' on Python 3.10 or newer "
            f"(this is {sys.version_info[0]}.{sys.version_info[1]})"
        ) from error
    return gradio


def check_address(host: str, port: int) -> None:
    """Refuse, before the network loads, an address that nobody can listen at.

    Raises:
      UserError: the port is taken, or the host is none of this machine.
    """
    try:
        info = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(*info[:2]) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(info[4])
    except OSError as error:
        raise UserError(
            f"cannot listen at {host} port {port} ({error.strerror}): choose another "
            "--port or --host"
        ) from error
