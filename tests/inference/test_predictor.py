"""util.inference.predictor: what the network of a snapshot gives."""

import contextlib
import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import networks
import numpy as np
import pytest
import recipe
from networks import SMALL, LSTM_model
from PIL import Image
from scipy.special import expit

from deeplab_resnet import LEVELS
from util.core.errors import UserError
from util.data import im_processing
from util.graph.compat import tf
from util.graph.session import new_session
from util.inference import dense_crf
from util.inference import predictor as predictor_module
from util.inference.predictor import CHUNK, Predictor
from util.training.snapshots import Snapshots

IMAGES = [recipe.image(seed, *size) for seed, size in ((1, (64, 64)), (2, (40, 90)))]
CLASSES = LSTM_model.WORD_CLASSES
WORDS = [recipe.words(seed, n, vocab=50)[0] for seed, n in ((1, 5), (2, 1))]
VOCABULARY = ["<pad>", "<go>", "<eos>", "<unk>", "the"]
VOCABULARY += [f"w{number}" for number in range(5, 50)]


@pytest.fixture(scope="module", autouse=True)
def small_backbone():
    """With rewriting: what TensorFlow makes of a graph may need what is not fed."""
    with networks.small_backbone(rewriting=True):
        yield


@pytest.fixture(scope="module")
def wanted(tmp_path_factory):
    """Return (path of a snapshot, what its network finds by image and sentence)."""
    folder = str(tmp_path_factory.mktemp("snapshot"))
    with tf.Graph().as_default(), tf.Session() as session:
        model = LSTM_model(**SMALL)
        networks.load_recipe(session)
        snapshots = Snapshots(folder, "unc")
        path = snapshots.save(session, 1)
        vocabulary = tmp_path_factory.mktemp("words") / "vocabulary.txt"
        vocabulary.write_text("\n".join(VOCABULARY))
        snapshots.copy_vocabulary(str(vocabulary))
        found = {}
        fetches = [model.up, model.sigm, model.words_parse]
        fetches += [getattr(model, "up_" + level) for level in LEVELS]
        for p, image in enumerate(IMAGES):
            fitted = im_processing.fit_image(image, 64, 64)
            fitted = im_processing.to_network_input(fitted)
            for w, words in enumerate(WORDS):
                feed = {model.im: [fitted], model.words: [words]}
                found[p, w] = session.run(fetches, feed)
        return path, found


@pytest.fixture(scope="module")
def predictor(wanted):
    with Predictor(wanted[0]) as predictor:
        yield predictor


def test_finds_many_sentences_of_many_images(predictor, wanted, monkeypatch):
    assert predictor.vocab_size == 50
    for chunk in (CHUNK, 1):
        monkeypatch.setattr("util.inference.predictor.CHUNK", chunk)
        for p, image in enumerate(IMAGES):
            predictor.set_image(image)
            assert predictor.image.shape == (64, 64, 3)
            found = predictor.find(WORDS)
            shape = (len(WORDS), 64, 64)
            assert found.logits.shape == found.probability.shape == shape
            assert found.word_weights.shape == (len(WORDS), 20, 4)
            for w in range(len(WORDS)):
                logits, probability, *others = wanted[1][p, w]
                # The same sums in another order.
                error = np.abs(found.logits[w] - logits[0, :, :, 0]).max()
                assert error <= 1e-5 * np.abs(logits).max()
                pairs = [(found.probability[w], probability[0, :, :, 0])]
                pairs.append((found.word_weights[w], others[0][0]))
                for level, scores in zip(LEVELS, others[1:]):
                    pairs.append((found.levels[level][w], expit(scores[0, :, :, 0])))
                for got, right in pairs:
                    np.testing.assert_allclose(got, right, atol=1e-5)


@pytest.mark.parametrize("together, num_runs", [(1, 4), (3, 1), (5, 1)])
def test_several_images_may_share_a_run(wanted, together, num_runs):
    """Each sentence gets what it gets alone; what fills a run up is not given."""
    ids = [np.stack(WORDS[:1]), np.stack(WORDS)]
    with Predictor(wanted[0], together=together) as predictor:
        images = [predictor.fit(image) for image in IMAGES]
        run = predictor._session.run
        with mock.patch.object(predictor._session, "run", wraps=run) as runs:
            found = predictor.find_all(images, ids)
        assert runs.call_count == num_runs
    assert [len(outputs.logits) for outputs in found] == [1, 2]
    for p, w in ((0, 0), (1, 0), (1, 1)):
        logits, probability, classes, *_ = wanted[1][p, w]
        error = np.abs(found[p].logits[w] - logits[0, :, :, 0]).max()
        assert error <= 1e-5 * np.abs(logits).max()
        pairs = [(found[p].probability, probability[..., 0])]
        pairs.append((found[p].word_weights, classes))
        for got, right in pairs:
            np.testing.assert_allclose(got[w], right[0], atol=1e-5)


@pytest.mark.parametrize("name", [*networks.NETWORKS, "refine image"])
def test_every_network_takes_several_images_in_a_run(name, tmp_path):
    make, sizes = {**networks.NETWORKS, **networks.VARIANTS}[name]
    with networks.without_rewriting():
        with tf.Graph().as_default(), tf.Session() as session:
            model = make(**sizes)
            networks.load_recipe(session, model)
            state = {"step": 1, "options": model.chosen}
            path = Snapshots(str(tmp_path), "unc").save(session, 1, state)
        found = []
        for together in (1, 3):
            with Predictor(path, together=together) as predictor:
                images = [predictor.fit(image) for image in IMAGES]
                ids = [np.stack(WORDS[:1]), np.stack(WORDS)]
                found.append(predictor.find_all(images, ids))
    for alone, one in zip(*found):
        largest = np.abs(alone.logits).max()
        np.testing.assert_allclose(one.logits, alone.logits, atol=1e-5 * largest)
        # These weights make large scores, and a sigmoid's slope is up to 1 / 4.
        near = 1e-5 * max(1, largest / 4)
        np.testing.assert_allclose(one.probability, alone.probability, atol=near)
        assert set(one.levels) == set(alone.levels)
        for level, scores in alone.levels.items():
            np.testing.assert_allclose(one.levels[level], scores, atol=near)
        for name in ("word_weights", "base_logits", "attention"):
            got, right = getattr(one, name), getattr(alone, name)
            assert (got is None) == (right is None)
            if got is not None:
                np.testing.assert_allclose(got, right, atol=1e-5 * np.abs(right).max())


def test_a_sentence_and_what_the_network_makes_of_it(predictor, monkeypatch):
    predictor.set_image(IMAGES[1])
    sentence = "The w17, zebra."
    ids = predictor.ids(sentence)
    # These weights find nothing anywhere; half of the image makes a better test.
    middle = np.median(predictor.find([ids]).logits)
    monkeypatch.setattr("util.inference.predictor.FOREGROUND", middle)
    prediction = predictor.segment(sentence)
    assert ids.tolist() == [0] * 16 + [4, 17, 3, 3]
    found = predictor.find([ids])
    assert prediction.sentence == sentence and prediction.num_unread == 0
    assert [word.text for word in prediction.words] == ["the", "w17", ", ", "zebra"]
    assert [word.is_known for word in prediction.words] == [True, True, False, False]
    for word, weights in zip(prediction.words, found.word_weights[0, 16:]):
        assert list(word.weights) == list(CLASSES)
        np.testing.assert_allclose(list(word.weights.values()), weights, atol=1e-6)
        assert word.kind == CLASSES[np.argmax(weights)]
    restored = im_processing.restore_mask(found.logits[0] >= middle, 40, 90)
    assert restored.any() and not restored.all()
    np.testing.assert_array_equal(prediction.mask, restored)
    right = im_processing.resize_and_crop(found.probability[0], 40, 90)
    np.testing.assert_allclose(prediction.probability, right, atol=1e-6)
    right = im_processing.resize_and_crop(found.levels["c3"][0], 40, 90)
    np.testing.assert_allclose(prediction.levels["c3"], right, atol=1e-6)


def test_answers_that_are_no_numbers_are_refused(predictor, monkeypatch):
    predictor.set_image(IMAGES[0])
    ids = [predictor.ids("the")]
    run = predictor._session.run

    def overflowing(fetches, feed):
        return dict(run(fetches, feed), pred=np.full([1, 64, 64, 1], np.nan))

    monkeypatch.setattr(predictor._session, "run", overflowing)
    with pytest.raises(UserError, match="answers with NaN or infinite scores"):
        predictor.find(ids)


def test_several_sentences_are_one_run(predictor):
    predictor.set_image(IMAGES[0])
    texts = ["the w9", "w10 w11"]
    alone = [predictor.segment(text) for text in texts]
    run = predictor._session.run
    with mock.patch.object(predictor._session, "run", wraps=run) as runs:
        together = predictor.segment(texts)
        assert runs.call_count == 1
    for one, other in zip(alone, together):
        np.testing.assert_allclose(one.probability, other.probability, atol=1e-5)
        assert one.sentence == other.sentence
    assert predictor.segment([]) == []


def test_words_after_the_twentieth_are_not_read(predictor):
    predictor.set_image(IMAGES[0])
    prediction = predictor.segment("the w9 " * 5000)
    assert len(prediction.words) == 20 and prediction.num_unread == 9980


def test_dense_crf_refines_the_mask_and_nothing_else(predictor):
    predictor.set_image(IMAGES[0])
    (plain,), (refined,) = (predictor.segment(["the w9"], crf) for crf in (False, True))
    found = predictor.find([predictor.ids("the w9")])
    right = dense_crf.refine(predictor.image, found.probability[0])
    np.testing.assert_array_equal(refined.mask, right)
    np.testing.assert_array_equal(plain.probability, refined.probability)


def test_dense_crf_is_that_of_the_backend(wanted, monkeypatch):
    asked = []

    def refine_all(image, probabilities, backend):
        asked.append(backend)
        return np.ones(probabilities.shape, bool)

    monkeypatch.setattr(dense_crf, "check_backend", asked.append)
    monkeypatch.setattr(dense_crf, "refine_all", refine_all)
    with Predictor(wanted[0], crf_backend="pydensecrf") as predictor:
        predictor.set_image(IMAGES[0])
        assert asked == ["pydensecrf"]
        assert predictor.segment("the w9", with_dense_crf=True).mask.all()
    assert asked == ["pydensecrf"] * 2


def test_images_come_in_any_form(predictor, tmp_path):
    array = IMAGES[1]
    Image.fromarray(array).save(str(tmp_path / "a.png"))
    forms = [array, tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(array)]
    for form in forms:
        predictor.set_image(IMAGES[0])
        predictor.set_image(form)
        wanted = im_processing.fit_image(array, 64, 64)
        np.testing.assert_array_equal(predictor.image, wanted)
    for bad in ("none.png", array.astype(float), array[:, :0], array[np.newaxis]):
        with pytest.raises(UserError):
            predictor.set_image(bad)
    np.testing.assert_array_equal(predictor.image, wanted)


def test_without_an_image_or_words_nothing_is_segmented(wanted):
    with Predictor(wanted[0], remembered=2) as predictor:
        with pytest.raises(RuntimeError, match="set_image"):
            predictor.segment("left")
        predictor.set_image(IMAGES[0])
        with pytest.raises(UserError, match="has no words"):
            predictor.segment(["left", " "])


def test_vocabulary_of_another_network_is_refused(wanted, tmp_path):
    path = tmp_path / "vocabulary.txt"
    path.write_text("<pad>\n<unk>\nleft\n")
    with pytest.raises(UserError, match="has 3 words, but .* knows 50"):
        Predictor(wanted[0], str(path))


def test_the_backbone_looks_at_an_image_once(predictor):
    predictor.set_image(IMAGES[0])
    with mock.patch.object(
        im_processing, "to_network_input", wraps=im_processing.to_network_input
    ) as looks:
        predictor.set_image(IMAGES[0].copy())
        assert looks.call_count == 0
        predictor.set_image(IMAGES[1])
        predictor.set_image(IMAGES[0])
        assert looks.call_count == 2


def test_remembered_images_cost_nothing(wanted):
    with Predictor(wanted[0], remembered=2) as predictor:
        run = predictor._session.run
        with mock.patch.object(predictor._session, "run", wraps=run) as runs:
            for image, count in ((0, 1), (1, 2), (0, 2), (1, 2)):
                predictor.set_image(IMAGES[image])
                assert runs.call_count == count
            predictor.set_image(recipe.image(3, 64, 64))
            predictor.set_image(IMAGES[1])
            assert runs.call_count == 3
            predictor.set_image(IMAGES[0])
            assert runs.call_count == 4
            found = predictor.find(WORDS[:1]).logits[0]
    np.testing.assert_allclose(found, wanted[1][0, 0][0][0, :, :, 0], rtol=1e-3)


def test_snapshot_of_another_network_is_refused(wanted, tmp_path):
    """Its signature and sizes are those of CMPC, and nothing else is there."""
    reader = tf.train.NewCheckpointReader(wanted[0])
    names = ("words_parse_1/DW", "Variable", "c5_lateral/DW", "rnn/conv_lstm_cell/W_ci")
    with tf.Graph().as_default(), tf.Session() as session:
        for name in names:
            name = "text_objseg/" + name
            tf.get_variable(name, initializer=reader.get_tensor(name))
        session.run(tf.global_variables_initializer())
        path = Snapshots(str(tmp_path), "unc").save(session, 1)
    opened = []

    def open_session(*args, **options):
        opened.append(new_session(*args, **options))
        return opened[-1]

    told = "does not fit the network: conv1/weights"
    with mock.patch("util.inference.predictor.new_session", open_session):
        with pytest.raises(UserError, match=told):
            Predictor(path)
    with pytest.raises(RuntimeError, match="closed"):
        opened[0].run([])


def test_a_gpu_with_little_memory_takes_fewer_sentences_a_run(wanted):
    """A stand-in for one that has room for two sentences."""
    ids = [np.stack(WORDS[:1]), np.stack(WORDS), np.stack(WORDS[:1])]
    with Predictor(wanted[0], together=8) as predictor:
        images = [predictor.fit(image) for image in (*IMAGES, IMAGES[0])]
        right = predictor.find_all(images, ids)
        run, sizes = predictor._session.run, []

        def run_if_it_fits(fetches, feed):
            sizes.append(max(len(value) for value in feed.values()))
            if sizes[-1] > 2:
                raise tf.errors.ResourceExhaustedError(None, None, "OOM")
            return run(fetches, feed)

        with mock.patch.object(predictor._session, "run", run_if_it_fits):
            found = predictor.find_all(images, ids)
            assert sizes == [8, 4, 2, 2, 2] and predictor.together == 2
            three = [np.stack([*WORDS, WORDS[0]])]
            with mock.patch.object(predictor_module, "CHUNK", 2):
                (alone,) = predictor.find_all(images[:1], three)
            assert predictor.together == 1 and len(alone.logits) == 3
            with pytest.raises(UserError, match="not enough memory: .* the CPU"):
                predictor.find_all(images[:1], three)
    for one, other in zip(found, right):
        np.testing.assert_allclose(one.logits, other.logits, rtol=1e-4, atol=1e-4)


def test_threads_that_run_out_of_memory_together_end(wanted):
    """Both have failed before one of them takes less: neither takes nothing."""
    both, ids = threading.Barrier(2), [np.stack(WORDS)]
    with Predictor(wanted[0], together=2) as predictor:
        images, run = [predictor.fit(IMAGES[0])], predictor._session.run

        def run_if_it_fits(fetches, feed):
            if max(len(value) for value in feed.values()) > 1:
                with contextlib.suppress(threading.BrokenBarrierError):
                    both.wait(10)
                raise tf.errors.InternalError(None, None, "CUBLAS_STATUS_ALLOC_FAILED")
            return run(fetches, feed)

        with mock.patch.object(predictor._session, "run", run_if_it_fits):
            with mock.patch.object(predictor_module, "CHUNK", 1):
                with ThreadPoolExecutor(2) as threads:
                    found = list(
                        threads.map(predictor.find_all, [images] * 2, [ids] * 2)
                    )
        assert predictor.together == 1
    assert [len(one.logits) for (one,) in found] == [2, 2]


def test_too_little_memory_for_the_weights_is_no_damaged_file(wanted, monkeypatch):
    oom = tf.errors.ResourceExhaustedError(None, None, "OOM when allocating")
    monkeypatch.setattr(tf.train.Saver, "restore", mock.Mock(side_effect=oom))
    with pytest.raises(UserError, match="the device has not enough memory"):
        Predictor(wanted[0])


def test_nothing_is_left_of_a_closed_predictor(wanted):
    with Predictor(wanted[0], together=3) as predictor:
        predictor.find_all([predictor.fit(IMAGES[0])], [np.stack(WORDS)])
        graph = weakref.ref(predictor._session.graph)
    del predictor
    gc.collect()
    assert graph() is None


def test_nothing_is_left_of_a_predictor_that_could_not_be_opened(wanted, monkeypatch):
    left = []

    def fail(graph, *args, **options):
        left.append(weakref.ref(graph))
        raise tf.errors.ResourceExhaustedError(None, None, "no memory is left")

    monkeypatch.setattr(predictor_module, "new_session", fail)
    with pytest.raises(UserError, match="not enough memory"):
        Predictor(wanted[0])
    gc.collect()
    assert left[0]() is None


def test_another_error_of_a_run_is_not_taken_for_too_little_memory(wanted):
    with Predictor(wanted[0], together=2) as predictor:
        images, ids = [predictor.fit(IMAGES[0])], [np.stack(WORDS)]
        broken = mock.Mock(side_effect=tf.errors.InternalError(None, None, "broken"))
        with mock.patch.object(predictor._session, "run", broken):
            with pytest.raises(tf.errors.InternalError, match="broken"):
                predictor.find_all(images, ids)
        assert broken.call_count == 1 and predictor.together == 2


def test_a_gpu_that_is_full_is_told_with_what_to_do(wanted, monkeypatch):
    full = tf.errors.InternalError(None, None, "cuCtxCreate: CUDA_ERROR_OUT_OF_MEMORY")
    monkeypatch.setattr(predictor_module, "new_session", mock.Mock(side_effect=full))
    with pytest.raises(UserError, match="not enough memory: .* -g -1 takes the CPU"):
        Predictor(wanted[0])


def test_what_is_not_asked_for_is_not_fetched(wanted):
    ids = [np.stack(WORDS)]
    for together in (1, 3):
        with Predictor(wanted[0], together=together) as predictor:
            images = [predictor.fit(IMAGES[0])]
            (whole,) = predictor.find_all(images, ids)
            (bare,) = predictor.find_all(images, ids, shows=False, probability=False)
        assert set(whole.levels) == set(LEVELS)
        assert bare.levels == {} and bare.probability is None
        np.testing.assert_array_equal(bare.logits, whole.logits)
        np.testing.assert_array_equal(bare.word_weights, whole.word_weights)
