"""util.vocabulary: which words are listed, and where sentences come from."""

import json
import os
import pickle

import pytest

from util import vocabulary
from util.data import datasets
from util.data.text_processing import load_vocab_dict_from_file, preprocess_sentence

SPECIAL = ["<pad>", "<go>", "<eos>", "<unk>"]


def choose(sentences, min_count=1):
    counts = vocabulary.count_words(sentences)
    return vocabulary.choose_words(counts, min_count)


def test_special_words_then_falling_counts_then_the_alphabet():
    sentences = ["The red cat", "the blue cat.", "a the"]
    assert choose(sentences) == SPECIAL + ["the", "cat", "a", "blue", "red"]


def test_min_count():
    sentences = ["the cat", "the dog", "the cat", "a dog"]
    assert choose(sentences, min_count=2) == SPECIAL + ["the", "cat", "dog"]


def test_only_words_that_a_line_can_hold_are_listed(tmp_path):
    sentences = ["a,b", "a, b", "x-\n-y", "a\ud800b", "caf\u00e9s <pad>", "ok"]
    words = choose(sentences)
    path = tmp_path / "words.txt"
    path.write_text("".join(word + "\n" for word in words), encoding="utf-8")
    vocab = load_vocab_dict_from_file(str(path))
    assert list(vocab) == words and list(vocab.values()) == list(range(len(words)))
    assert words.count("<pad>") == 1 and {",", "\u00e9", "ok"} <= set(words)
    unknown = vocab["<unk>"]
    assert preprocess_sentence("a,b", vocab, 3) == [vocab[w] for w in "a,b"]
    assert preprocess_sentence("a, b", vocab, 3)[1] == unknown


def text_file(folder):
    path = str(folder / "sentences.txt")
    with open(path, "w", encoding="utf-8") as file:
        file.write("the red cat\n\nThe dog.\n  \nthe CAT")
    return path


def query_file(folder):
    path = str(folder / "queries.json")
    with open(path, "w") as file:
        json.dump({"1_1": ["the red cat", "The dog."], "2_1": ["the CAT"]}, file)
    return path


def refs(folder, name="refs(x).p"):
    """Write refs: two for training, one for validation."""
    path = str(folder / name)
    sentences = [["the red cat", "The dog."], ["the CAT"], ["unseen words"]]
    content = [
        {
            "ann_id": number,
            "image_id": 1,
            "split": "val" if number == 2 else "train",
            "sentences": [{"sent": sentence} for sentence in texts],
        }
        for number, texts in enumerate(sentences)
    ]
    with open(path, "wb") as file:
        pickle.dump(content, file, protocol=2)
    return path


KNOWN = ["the", "cat", "dog", "red"]


@pytest.mark.parametrize("make", [text_file, query_file])
def test_text_and_query_files(make, tmp_path):
    assert choose(vocabulary.read_sentences(make(tmp_path))) == SPECIAL + KNOWN


def test_byte_order_mark_is_no_part_of_a_sentence(tmp_path):
    (tmp_path / "a.txt").write_text("left box\n", encoding="utf-8-sig")
    assert vocabulary.read_sentences(str(tmp_path / "a.txt")) == ["left box\n"]


def test_a_refs_file_gives_all_its_splits(tmp_path):
    words = choose(vocabulary.read_sentences(refs(tmp_path)))
    assert words == SPECIAL + KNOWN + ["unseen", "words"]


def test_a_data_set_gives_its_training_split(tmp_path):
    folder = tmp_path / "refer" / "refcoco"
    folder.mkdir(parents=True)
    refs(folder, "refs(unc).p")
    images = [{"id": 1, "height": 4, "width": 4}]
    annotations = [{"id": n, "segmentation": [[0, 0, 4, 0, 4, 4]]} for n in range(3)]
    instances = {"images": images, "annotations": annotations}
    (folder / "instances.json").write_text(json.dumps(instances))
    output = tmp_path / "words.txt"
    arguments = ["-d", "unc", "--data", str(tmp_path), "--output", str(output)]
    assert vocabulary.main(arguments) == 0
    assert output.read_text().split("\n") == SPECIAL + KNOWN + [""]


def test_referit_calls_its_training_split_trainval(tmp_path):
    os.rename(query_file(tmp_path), str(tmp_path / "referit_query_trainval.json"))
    sentences = vocabulary.training_sentences(datasets.get("referit", str(tmp_path)))
    assert sentences == ["the red cat", "The dog.", "the CAT"]


def run(folder, *arguments):
    """Run the command line on text_file; return (exit code, path of the words)."""
    output = folder / "words.txt"
    arguments = [text_file(folder), "--output", str(output)] + list(arguments)
    return vocabulary.main(arguments), output


def test_the_command_reports_words_and_coverage(tmp_path, capsys):
    code, output = run(tmp_path, "--min-count", "2")
    assert code == 0
    assert output.read_text().split("\n") == SPECIAL + ["the", "cat", ""]
    printed = capsys.readouterr().out
    assert "6 words" in printed
    assert "5 of 7 word occurrences covered (71.4 %)" in printed


def test_an_older_vocabulary_is_kept_unless_forced(tmp_path, capsys):
    (tmp_path / "words.txt").write_text("older")
    code, output = run(tmp_path)
    assert code == 2 and output.read_text() == "older"
    assert "--force" in capsys.readouterr().err
    code, output = run(tmp_path, "--force")
    assert code == 0 and output.read_text().startswith("<pad>\n")


def test_sentences_without_words_are_refused(tmp_path, capsys):
    code, output = run(tmp_path, "--min-count", "9")
    assert code == 2 and not output.exists()
    assert "no words" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["no.txt", "no.json", "no.p", "bad.txt", "bad.json"])
def test_missing_and_damaged_files_are_named(name, tmp_path, capsys):
    path = tmp_path / name
    if name.startswith("bad"):
        path.write_bytes(b"\xff\xfe\x00")
    output = tmp_path / "words.txt"
    assert vocabulary.main([str(path), "--output", str(output)]) == 2
    assert name in capsys.readouterr().err and not output.exists()


def test_a_command_line_without_sentences_is_refused(capsys):
    assert vocabulary.main(["--output", "words.txt"]) == 2
    assert capsys.readouterr().err.startswith("error: give -d or files")


UNICODE = ["<pad>", "<unicode>", "<eos>", "<unk>"]


def make(folder, sentences, *options):
    """Run the command on sentences of one's own; return the words."""
    (folder / "own.txt").write_text("\n".join(sentences), encoding="utf-8")
    output = folder / "words.txt"
    arguments = [str(folder / "own.txt"), "--output", str(output), "--force"]
    assert vocabulary.main(arguments + list(options)) == 0
    return output.read_text(encoding="utf-8").split("\n")[:-1]


def test_letters_beyond_ascii_bring_the_rule_of_every_alphabet(tmp_path, capsys):
    assert make(tmp_path, ["the – “red” box"])[:4] == SPECIAL
    words = make(tmp_path, ["красный круг", "круг, e\u0301te\u0301", "می\u200cشود"])
    assert words == UNICODE + ["круг", ",", "été", "красный", "می\u200cشود"]
    out, err = capsys.readouterr()
    assert "6 of 6 word occurrences covered (100.0 %)\nletters of every alphabet" in out
    assert not err


def test_the_rule_can_be_chosen(tmp_path, capsys):
    assert make(tmp_path, ["the, box"], "--words", "unicode")[1] == "<unicode>"
    assert make(tmp_path, ["el niño"], "--words", "ascii")[:4] == SPECIAL
    told = "warning: 1 of 1 sentences have letters beyond ASCII, as in 'niño'"
    assert told in capsys.readouterr().err


def test_published_data_sets_keep_the_rule_of_the_reference(tmp_path):
    queries = {"1_1": ["the café", "the box"]}
    (tmp_path / "referit_query_trainval.json").write_text(json.dumps(queries))
    output = tmp_path / "words.txt"
    arguments = ["-d", "referit", "--data", str(tmp_path), "--output", str(output)]
    assert vocabulary.main(arguments) == 0
    words = output.read_text(encoding="utf-8").split("\n")[:-1]
    assert words == SPECIAL + ["the", "box", "caf", "é"]


def test_sentences_without_blanks_are_told(tmp_path, capsys):
    make(tmp_path, ["左边的红色圆", "左边的 圆", "red", "ผู้ชายทางซ้าย", "krug слева"])
    err = capsys.readouterr().err
    assert err.startswith(
        "warning: 2 of 5 sentences have no blanks, as in '左边的红色圆'"
    )


def test_wrong_entries_are_left_out_with_a_warning(tmp_path, capsys):
    sound = {"image": "a.jpg", "split": "train", "sentences": ["left"], "mask": "m.png"}
    path, output = tmp_path / "mine.json", tmp_path / "words.txt"
    path.write_text(json.dumps([sound, dict(sound, sentences="right")]))
    assert vocabulary.main([str(path), "--output", str(output)]) == 0
    assert output.read_text().split()[4:] == ["left"]
    told = capsys.readouterr().err
    assert told.startswith("warning: without what is wrong: ") and "entry 1" in told


# --- A vocabulary that grows


def write_older(folder, *words):
    path = folder / "older.txt"
    path.write_text("\n".join(words), encoding="utf-8")
    return path


def test_extended_vocabulary_begins_with_the_older_one(tmp_path, capsys):
    older = [
        *SPECIAL,
        "the",
        ", and",
        "dog",
        "dog",
    ]
    output = tmp_path / "words.txt"
    options = ["--extend", str(write_older(tmp_path, *older)), "--output", str(output)]
    assert vocabulary.main([text_file(tmp_path), *options]) == 0
    assert output.read_text().splitlines() == [*older, "cat", "red"]
    printed = capsys.readouterr().out
    assert f"{output}: 10 words, 2 of them new\n" in printed
    assert "7 of 7 word occurrences covered" in printed


def test_extended_vocabulary_keeps_its_rule(tmp_path, capsys):
    sentences = tmp_path / "sentences.txt"
    sentences.write_text("the caf\u00e9", encoding="utf-8")
    older = write_older(tmp_path, "<pad>", "<unicode>", "<eos>", "<unk>", "the")
    command = [str(sentences), "--extend", str(older), "--output", str(tmp_path / "a")]
    assert vocabulary.main([*command, "--words", "ascii"]) == 2
    assert "older.txt has the rule unicode, not ascii" in capsys.readouterr().err
    assert vocabulary.main(command) == 0
    read = (tmp_path / "a").read_text(encoding="utf-8").split()
    assert read == ["<pad>", "<unicode>", "<eos>", "<unk>", "the", "caf\u00e9"]
    write_older(tmp_path, *SPECIAL, "the")
    command[-1] = str(tmp_path / "b")
    assert vocabulary.main(command) == 0
    assert "letters beyond ASCII, as in 'caf\u00e9'" in capsys.readouterr().err
    assert "caf\u00e9" not in (tmp_path / "b").read_text(encoding="utf-8")


def test_extending_what_is_no_vocabulary_is_refused(tmp_path, capsys):
    older = write_older(tmp_path, "the", "dog")
    command = ["--extend", str(older), "--output", str(tmp_path / "words.txt")]
    assert vocabulary.main([text_file(tmp_path), *command]) == 2
    assert "older.txt is not a vocabulary" in capsys.readouterr().err
    assert not (tmp_path / "words.txt").exists()
