"""util.deploy: the service, the call, and the page in a browser."""

import argparse
import contextlib
import http.client
import io
import json
import os
import queue
import shutil
import subprocess
import sys
import threading
import types
from concurrent import futures
from pathlib import Path

import broken
import numpy as np
import pytest
import screenshot
from networks import LSTM_model, small_backbone
from PIL import Image
from pycocotools import mask as coco_mask

import trainval_model
from util import models
from util.bench import load_test, scaling
from util.core.errors import UserError
from util.deploy import guard, page, server
from util.deploy.store import Store
from util.inference.predictor import Predictor

NEW = sys.version_info >= (3, 10)
needs_gradio = pytest.mark.skipif(not NEW, reason="Gradio 6 needs Python 3.10")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(
    not NEW or not (CHROMIUM or os.environ.get("CI")),
    reason="needs Python 3.10 and Chromium (apt install chromium)",
)
ALL_LOADED = (
    "number => { const images = [...document.querySelectorAll('#levels img')];"
    " return images.length == number && images.every(image => image.naturalWidth); }"
)
HOSTILE = "the <img src=x onerror=\"document.title='owned'\"> circle"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return load_test.draw_images(str(tmp_path_factory.mktemp("images")))


@pytest.fixture(scope="module")
def predictor(images, tmp_path_factory):
    """A network with a unit a block, for time."""
    with small_backbone():
        folder = str(tmp_path_factory.mktemp("network"))
        questions = load_test.draw_questions(images)
        snapshot = load_test.draw_network(LSTM_model, folder, questions)
        predictor = Predictor(snapshot, remembered=server.REMEMBERED)
    with predictor:
        yield predictor


@pytest.fixture(scope="module")
def service(predictor):
    return server.Service(predictor)


# --- The service, on both stacks


def test_an_answer_is_that_of_the_predictor(service, predictor, images):
    answer = service.answer(images[0], "the red circle")
    predictor.set_image(images[0])
    mask = predictor.segment("the red circle").mask
    assert mask.any() and not mask.all()
    np.testing.assert_array_equal(coco_mask.decode(answer.record["mask"]) > 0, mask)
    assert answer.record["area"] == mask.sum() and answer.record["seconds"] > 0
    assert json.loads(json.dumps(answer.record)) == answer.record
    assert answer.image.shape[:2] == mask.shape


def test_refined_answers_differ(service, images):
    plain, refined = (
        service.answer(images[0], "the red circle", refine).record["mask"]
        for refine in (False, True)
    )
    assert plain != refined


def test_a_second_sentence_does_not_look_again(service, predictor, images):
    runs, run = [], predictor._session.run
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            predictor._session, "run", lambda *args: runs.append(args) or run(*args)
        )
        service.answer(images[1], "the red circle")
        service.answer(images[2], "the red circle")
        assert len(runs) == 4
        service.answer(images[1], "the blue square")
        assert len(runs) == 5


def test_what_is_refused(service, images, tmp_path, monkeypatch):
    def refused(told, path, sentence="left"):
        with pytest.raises(UserError, match=told) as caught:
            service.answer(path, sentence)
        assert str(tmp_path) not in str(caught.value)

    refused("choose an image first", None)
    refused("has no words", images[0], " ")
    refused("has 1001 letters, more than 1000", images[0], "x" * 1001)
    refused("not here any more", str(tmp_path / "gone.png"))
    path = tmp_path / "some.png"
    path.write_bytes(b"no image")
    refused("some.png is damaged or not an image", str(path))
    path.write_bytes(broken.bomb(6000, 6000))
    refused("more than 25 million pixels", str(path))
    monkeypatch.setattr(server, "MAX_UPLOAD_BYTES", 9 * 10**6)
    path.write_bytes(b"x" * (9 * 10**6 + 1))
    refused("some.png has more than 9 MB", str(path))


def test_two_hundred_broken_inputs(service, images, tmp_path):
    asked = [(images[0], sentence) for sentence in broken.SENTENCES]
    for name, content in broken.images().items():
        (tmp_path / name).write_bytes(content)
        asked.append((str(tmp_path / name), "the circle"))
    refused = 0
    for path, sentence in asked:
        try:
            record = service.answer(path, sentence).record
            assert sum(record["mask"]["size"]) > 1
        except UserError as error:
            refused += 1
            assert len(str(error).splitlines()) <= 1, str(error)
    assert 60 < refused < 120
    assert len(list(tmp_path.iterdir())) == len(broken.images())


def test_texts_on_the_page_are_escaped(service, images):
    record = service.answer(images[0], HOSTILE).record
    asked = page.Asked(HOSTILE, "<b>.png", 5, 1.0)
    for text in (
        page.summary_html(record),
        page.words_html(record),
        page.history_html([asked]),
    ):
        assert "<img" not in text and "<b>.png" not in text and "&lt;" in text


def test_words_of_a_model_without_classes_are_plain():
    word = {"text": "<b>", "known": True, "class": None, "weights": {}}
    html = page.words_html(
        {
            "words": [word, dict(word, known=False)],
            "num_unread": 0,
            "foreign_words": ["<café>"],
        }
    )
    assert "ASCII only, not <b>&lt;café&gt;</b>" in html
    assert "&lt;b&gt;" in html and "None" not in html and "<small>" not in html
    assert html.count("title=''") == 1
    assert html.count("title='the network does not know this word'") == 1


def test_words_carry_the_colour_of_their_class(service, images):
    record = service.answer(images[0], "the zebra " * 12).record
    html = page.words_html(record)
    for word in record["words"]:
        assert (
            word["class"] in html
            and "{:.2f}".format(max(word["weights"].values())) in html
        )
        assert page.class_colour(word["class"]) in html
    assert html.count("class='word unknown'") == 10
    assert "4 more words were not read" in html


def test_images_on_the_page(service, images, tmp_path):
    answer = service.answer(images[0], "the circle")
    shown = page.overlay_image(answer.image, answer.prediction)
    assert max(shown.shape) == page.SHOWN_SIDE and shown.dtype == np.uint8
    levels = page.level_images(answer.image, answer.prediction)
    assert len(levels) == 3 and max(levels[0].shape) == page.LEVEL_SIDE
    with Image.open(page.save_mask(answer.prediction, str(tmp_path))) as file:
        np.testing.assert_array_equal(np.array(file) == 255, answer.prediction.mask)


def test_equal_answers_share_no_files(service, images, tmp_path):
    answer = service.answer(images[0], "the circle")
    shown = [part for _ in range(2) for part in page._drawn(answer, str(tmp_path))]
    files = [part for part in shown if os.path.isfile(part)]
    assert len(files) == len(set(files)) == 10


@pytest.mark.skipif(NEW, reason="there is a Gradio for this Python")
def test_an_old_python_is_told_so_in_a_line(capsys):
    assert trainval_model.main("-m serve -d shapes -f nowhere -g -1".split()) == 2
    told = capsys.readouterr().err
    assert "needs Gradio" in told and "Python 3.10 or newer" in told
    assert told.count("\n") == 1


@needs_gradio
def test_what_the_command_refuses(capsys):
    import socket

    with contextlib.closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        line = "-m serve -d shapes -f nowhere -g -1 --port {}"
        assert trainval_model.main(line.format(taken.getsockname()[1]).split()) == 2
    told = capsys.readouterr().err
    assert "cannot listen at 127.0.0.1 port" in told and told.count("\n") == 1
    (port,) = scaling.free_ports(1)
    assert trainval_model.main(line.format(port).split()) == 2
    assert "there is no snapshot" in capsys.readouterr().err


# --- The call and the page


@pytest.fixture(scope="module")
def url(service):
    (port,) = scaling.free_ports(1)
    with server.serving(service, "127.0.0.1", port, has_examples=True) as url:
        yield url


@needs_gradio
def test_the_call(url, service, images):
    from gradio_client import Client, handle_file
    from gradio_client.exceptions import AppError

    client = Client(url, verbose=False)
    found = client.predict(
        handle_file(images[0]), "the circle", False, api_name="/segment"
    )
    wanted = service.answer(images[0], "the circle").record
    assert found["mask"] == wanted["mask"] and found["words"] == wanted["words"]
    with pytest.raises(AppError, match="has no words"):
        client.predict(handle_file(images[0]), " ", False, api_name="/segment")
    with pytest.raises(AppError, match="choose an image first"):
        client.predict(None, "left", False, api_name="/segment")
    assert list(client.view_api(return_format="dict")["named_endpoints"]) == [
        "/segment"
    ]


def call(site, path, **more):
    """Ask as curl does, in two requests; return the event stream."""
    host = site.split("/")[2]
    image = {"path": path, **more}
    body = json.dumps({"data": [image, "the circle", False]})
    connection = http.client.HTTPConnection(host, timeout=30)
    with contextlib.closing(connection):
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/gradio_api/call/segment", body, headers)
        event = json.loads(connection.getresponse().read())["event_id"]
        connection.request("GET", "/gradio_api/call/segment/" + event)
        return connection.getresponse().read().decode("utf-8")


@needs_gradio
def test_only_uploads_can_be_asked_about(url, images, monkeypatch):
    """No file is read and no URL fetched because a request names it."""
    # Older Gradios took files of the working folder.
    monkeypatch.chdir(os.path.dirname(images[0]))
    inside = str(Path(os.environ["GRADIO_TEMP_DIR"]) / "examples" / "place.png")
    folder = os.path.dirname(inside)
    marked = {"meta": {"_type": "gradio.FileData"}}
    told = set()
    for more in (marked, {}, {"url": "http://127.0.0.1:9/x.png"}):
        assert "event: complete" in call(url, inside, **more)
        for path in (images[0], "/etc/no-such-file", folder, "http://127.0.0.1:9/x"):
            answer = call(url, path, **more)
            assert "event: error" in answer and "counts" not in answer
            if not more:
                told.add(json.loads(answer.split("data: ")[1])["error"])
    assert told == {"the image is not here any more: upload it again"}


def gradio_queue(**parts):
    """Return what `_forget_answers` needs of Gradio's queue."""
    names = ("messages_per_session", "event_ids_session")
    empty = {f"pending_{name}": {} for name in names}
    return types.SimpleNamespace(**{**empty, "event_ids_to_events": {}, **parts})


def test_answers_that_nobody_fetches_are_bounded(monkeypatch):
    """Neither many sessions nor one session's many calls fill the memory."""
    monkeypatch.setattr(server, "MAX_SESSIONS", 3)
    monkeypatch.setattr(server, "MAX_MESSAGES", 4)

    def messages(number):
        waiting = queue.Queue()
        for message in range(number):
            waiting.put(message)
        return waiting

    busy = types.SimpleNamespace(_id="e9", session_hash="s0")
    state = gradio_queue(
        pending_messages_per_session={f"s{n}": messages(n) for n in range(10)},
        pending_event_ids_session={
            "s0": {"e9", *"abcdef"},
            "s1": {"a"},
            "s9": {"a", "b"},
            "gone": {"a"},
        },
        event_ids_to_events={"e9": busy},
    )
    server._forget_answers(state)
    kept = state.pending_messages_per_session
    assert list(kept) == ["s0", "s7", "s8", "s9"]
    assert [waiting.qsize() for waiting in kept.values()] == [0, 4, 4, 4]
    assert kept["s9"].get() == 5  # the newest stay
    assert state.pending_event_ids_session == {"s0": {"e9"}, "s9": {"a", "b"}}


def test_old_files_go_after_a_clean_up_that_failed(tmp_path, monkeypatch):
    store = Store(str(tmp_path))
    blocks = argparse.Namespace(
        temp_file_sets=[{str(tmp_path), "/no/such/file"}], _queue=gradio_queue()
    )
    monkeypatch.setattr(server, "CLEANED_S", 0.01)
    may_end, cleaned = threading.Event(), []

    def clean():
        cleaned.append(server._clean(store, blocks))
        if len(cleaned) == 3:
            may_end.set()
        raise OSError("not now")

    with server._repeated(clean):
        assert may_end.wait(30)
    assert blocks.temp_file_sets == [set()]


@needs_gradio
def test_uploads_are_bounded(url):
    host = url.split("/")[2]
    connection = http.client.HTTPConnection(host, timeout=30)
    with contextlib.closing(connection), contextlib.suppress(ConnectionError):
        body = b"x" * (guard.MAX_REQUEST_BYTES + 10**6)
        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        connection.request("POST", "/gradio_api/upload", body, headers)
        assert connection.getresponse().status in (400, 413)


class Stuck:
    """A service that answers when it is told to."""

    levels, about_levels = (), ""

    def __init__(self):
        self.begun, self.may_end = threading.Semaphore(0), threading.Event()

    def answer(self, *_):
        self.begun.release()
        assert self.may_end.wait(60)
        raise UserError("at last")


@needs_gradio
def test_one_is_answered_a_few_wait_and_the_rest_is_told(monkeypatch):
    from gradio_client import Client
    from gradio_client.exceptions import AppError
    from gradio_client.utils import QueueError

    monkeypatch.setattr(server, "MAX_WAITING", 1)
    # That of the other server comes back with the test's end.
    monkeypatch.setenv("GRADIO_TEMP_DIR", os.environ.get("GRADIO_TEMP_DIR", ""))
    service, (port,) = Stuck(), scaling.free_ports(1)
    with server.serving(service, "127.0.0.1", port) as url:
        client = Client(url, verbose=False)

        def ask():
            return client.submit(None, "left", False, api_name="/segment")

        answered = ask()
        assert service.begun.acquire(timeout=30)
        rivals = [ask().future for _ in range(2)]
        (refused,), (waiting,) = futures.wait(rivals, 30, futures.FIRST_COMPLETED)
        with pytest.raises(QueueError, match="full"):
            refused.result()
        assert not service.begun.acquire(blocking=False)
        service.may_end.set()
        for one in (answered, waiting):
            with pytest.raises(AppError, match="at last"):
                one.result(30)


@pytest.fixture
def browser():
    """A browser that is gone after the test: Playwright has no two in a thread."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox"]
        )
        yield browser
        browser.close()


@needs_browser
def test_the_page_in_a_browser(url, browser, predictor, images, tmp_path):
    tab = browser.new_page()
    requests, problems = [], []
    tab.on("request", lambda request: requests.append(request.url))
    tab.on("pageerror", lambda error: problems.append(str(error)))
    tab.goto(url)

    def ask(sentence):
        tab.fill("#sentence textarea, #sentence input", sentence)
        tab.click("#find")

    tab.wait_for_selector("#find")
    ask("the circle")
    tab.wait_for_selector("#message:has-text('choose an image first')")
    tab.set_input_files("#image input[type=file]", images[3])
    tab.wait_for_selector("#image img")
    runs, run = [], predictor._session.run
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            predictor._session, "run", lambda *args: runs.append(1) or run(*args)
        )
        ask("the red circle")
        tab.wait_for_selector("#history tr:nth-child(2)")
        assert len(runs) == 2
        tab.fill("#sentence textarea, #sentence input", HOSTILE)
        tab.press("#sentence textarea, #sentence input", "Enter")
        tab.wait_for_selector("#history tr:nth-child(3)")
        assert len(runs) == 3  # the image was not looked at again
    tab.wait_for_selector("#mask img")
    tab.wait_for_function(
        f"document.querySelector('#mask img').naturalWidth == {page.SHOWN_SIDE}"
    )
    assert tab.locator("#levels img").count() == 3
    history = tab.inner_text("#history")
    assert HOSTILE in history and "the red circle" in history
    words = tab.inner_text("#words").split("\n")
    assert "<" in words and "onerror" in words
    with tab.expect_download() as download:
        tab.click("#download")
    with Image.open(str(download.value.path())) as mask:
        with Image.open(images[3]) as image:
            assert mask.size == image.size and mask.mode == "L"
    ask(" ")
    tab.wait_for_selector("#message:has-text('has no words')")
    with open(str(tmp_path / "bad.png"), "wb") as file:
        file.write(b"no image")
    tab.reload()
    tab.set_input_files("#image input[type=file]", file.name)
    tab.wait_for_selector("#image img", state="attached")
    ask("left")
    tab.wait_for_selector("#message:has-text('bad.png is damaged')")
    assert not tab.locator("#mask img").count()
    assert tab.title() == "RefSeg" and not problems
    elsewhere = [r for r in requests if not r.startswith((url, "data:", "blob:"))]
    assert not elsewhere
    tab.close()


SHOWN = {  # model, options -> the names and the words under the answer
    ("CMPC_model", "refine", "score"): ["base", "c5", "c4", "c3"],
    ("STEP_model", "folds", 2): ["heat_1", "round_1", "heat_2", "answer"],
}


@needs_browser
@pytest.mark.parametrize("made", SHOWN, ids=str)
def test_the_page_shows_what_a_model_has(made, browser, images, tmp_path, monkeypatch):
    """The score that is refined; the rounds, and what each word counts in them."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", os.environ.get("GRADIO_TEMP_DIR", ""))
    name, option, value = made
    model = models.load(name)
    with small_backbone():
        questions = load_test.draw_questions(images)
        options = {option: value}
        predictor = Predictor(
            load_test.draw_network(model, str(tmp_path), questions, **options)
        )
    service, (port,) = server.Service(predictor), scaling.free_ports(1)
    answer = service.answer(images[0], "the red circle")
    with contextlib.closing(service), server.serving(service, "127.0.0.1", port) as url:
        tab = browser.new_page()
        tab.goto(url)
        tab.set_input_files("#image input[type=file]", images[0])
        tab.wait_for_selector("#image img")
        tab.fill("#sentence textarea, #sentence input", "the red circle")
        tab.click("#find")
        tab.wait_for_selector("#history tr:nth-child(2)")
        tab.wait_for_function(ALL_LOADED, arg=len(SHOWN[made]))
        labels = tab.inner_text("#levels").split()
        told, words = tab.inner_text("body"), tab.inner_text("#words").split()
        sources = tab.eval_on_selector_all("#levels img", "all => all.map(x => x.src)")
        shown = [tab.request.get(source).body() for source in sources]
        tab.close()
    assert [label for label in labels if label in SHOWN[made]] == SHOWN[made]
    assert model.SHOWN in told
    assert ("base: the score that the answer refines" in told) == ("base" in labels)
    drawn = page.level_images(answer.image, answer.prediction)
    assert len(shown) == len(drawn)
    for picture, wanted in zip(shown, drawn):
        found = np.array(Image.open(io.BytesIO(picture)).convert("RGB"))
        errors = [np.abs(found.astype(int) - other).mean() for other in drawn]
        assert found.shape == wanted.shape and wanted is drawn[int(np.argmin(errors))]
    for word in answer.record["words"]:
        shares = " ".join(f"{share:.2f}" for share in word.get("attention", []))
        assert f"{word['text']} {shares}".strip() in " ".join(words)


@needs_browser
def test_an_image_of_the_page(url, tmp_path, capsys):
    path = tmp_path / "page.png"
    assert screenshot.main([url, "--output", str(path)]) == 0
    with Image.open(str(path)) as shot:
        assert shot.size == tuple(screenshot.SIZE.values())
        assert len(shot.getcolors(2**20)) > 1000
    (port,) = scaling.free_ports(1)
    nowhere = f"http://127.0.0.1:{port}"
    assert screenshot.main([nowhere, "--output", str(tmp_path / "no.png")]) == 2
    assert "no page of shapes at " + nowhere in capsys.readouterr().err
    assert os.listdir(str(tmp_path)) == ["page.png"]


@needs_browser
def test_a_server_process_serves_and_ends(predictor, tmp_path):
    """As users start it; SIGTERM ends it, and nothing of it stays."""
    snapshot = Path(predictor._snapshot)
    before = set(os.listdir(str(snapshot.parent)))
    code = (
        "import sys\n"
        "sys.path[:0] = ['tests', 'tests/golden']\n"
        "import networks, trainval_model\n"
        "with networks.small_backbone():\n"
        "    sys.exit(trainval_model.main(sys.argv[1:]))\n"
    )
    (port,) = scaling.free_ports(1)
    line = f"-m serve -d shapes -i 1 -g -1 -f {snapshot.parent} --port {port}"
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", code, *line.split()],
        cwd=str(Path(__file__).resolve().parents[2]),
        env=dict(os.environ, TMPDIR=str(tmp_path)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
    )
    alarm = threading.Timer(100, process.kill)
    alarm.start()
    try:
        first = process.stdout.readline()
        assert first == f"the page: http://127.0.0.1:{port}/ (Ctrl-C ends)\n"
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("GET", "/")
        answer = connection.getresponse()
        assert answer.status == 200
        assert "default-src 'self'" in answer.getheader("content-security-policy")
        process.terminate()
        _, told = process.communicate(timeout=60)
    finally:
        alarm.cancel()
        process.kill()
    assert process.returncode == 0 and "Traceback" not in told
    assert set(os.listdir(str(snapshot.parent))) == before
    left = os.listdir(str(tmp_path))
    assert not [name for name in left if "refseg" in name or name == "gradio"]


@needs_gradio
def test_many_clients_are_measured(predictor, url, images, monkeypatch):
    monkeypatch.setattr(load_test, "CLIENTS", 2)
    questions = [(path, "the red circle") for path in images[:2]]
    answers = {}
    for path, sentence in questions:
        predictor.set_image(path)
        answers[path, sentence] = predictor.segment(sentence).mask
    process = types.SimpleNamespace(pid=os.getpid())
    figures = load_test._ask(url, process, answers, 1.5)
    assert figures["calls"] > 1 and figures["wrong"] == 0
    assert 0 < figures["p50_s"] <= figures["p95_s"] < 30
    assert abs(figures["growth"]) < 1 and figures["end_mb"] > 50
    wrong = {question: ~mask for question, mask in answers.items()}
    figures = load_test._ask(url, process, wrong, 1)
    assert figures["wrong"] == figures["calls"] > 0
    assert "wrong; " in load_test.describe(figures)
