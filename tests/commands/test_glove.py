"""util.glove: which row gets which vector, and files of every kind."""

import gzip
import io
import os
import re
import tracemalloc
import zipfile

import numpy as np
import pytest

from util import glove
from util.core.errors import UserError

GLOVE = b"""the 0.5 -1.0 0.25
caf\xc3\xa9 1.0 2.0 3.0
. . . 7.0 7.5 8.0
at name@domain.com 4.0 5.0 6.0
cat 1e-05 -0.125 9
<unk> 9.0 9.0 9.0
dog 0.75 0.5 0.25
"""
WORDS = ["<pad>", "<go>", "<eos>", "<unk>", "cat", "zig", "the", "zig", "cat", ". . ."]


@pytest.fixture
def text_file(tmp_path):
    path = tmp_path / "glove.3d.txt"
    path.write_bytes(GLOVE)
    return str(path)


@pytest.fixture
def vocabulary(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("".join(word + "\n" for word in WORDS))
    return str(path)


def run(vectors, vocabulary, output, *more):
    """Run the command line and return its exit code."""
    arguments = [vectors, "--vocabulary", vocabulary, "--output", str(output)]
    return glove.main(arguments + list(more))


def test_every_word_has_its_vector(text_file):
    table, found = glove.word_vectors(WORDS, text_file)
    assert table.dtype == np.float32 and table.shape == (10, 3)
    np.testing.assert_array_equal(table[6], np.float32([0.5, -1, 0.25]))
    np.testing.assert_array_equal(table[4], np.float32([1e-5, -0.125, 9]))
    np.testing.assert_array_equal(table[8], table[4])
    np.testing.assert_array_equal(table[9], np.float32([7, 7.5, 8]))
    assert found == 4


def test_the_name_of_a_rule_is_no_word(tmp_path):
    path = tmp_path / "vectors.txt"
    path.write_bytes(b"<unicode> 50.0 50.0\nni\xc3\xb1o 1.0 2.0\n")
    table, found = glove.word_vectors(
        ["<pad>", "<unicode>", "<unk>", "niño"], str(path)
    )
    assert found == 1 and table[3].tolist() == [1, 2] and abs(table[1]).max() < 5


def test_special_and_missing_words_get_noise_and_padding_zeros(text_file):
    table, _ = glove.word_vectors(WORDS, text_file)
    assert (table[0] == 0).all()
    assert (table[1:4] != 0).all() and (np.abs(table[3]) < 5).all()
    np.testing.assert_array_equal(table[5], table[7])
    assert len({row.tobytes() for row in table}) == len(set(WORDS))


def test_the_noise_has_a_standard_deviation_of_0_6(text_file):
    words = WORDS + [f"missing{number}" for number in range(20000)]
    noise = glove.word_vectors(words, text_file)[0][len(WORDS) :]
    # 60000 draws: the errors of mean and deviation are about 0.0024 and 0.0017.
    assert abs(noise.mean()) < 0.01
    assert noise.std() == pytest.approx(0.6, abs=0.01)


def test_seed_decides_and_the_order_of_the_file_does_not(text_file, tmp_path):
    lines = GLOVE.splitlines(keepends=True)
    turned = tmp_path / "turned.txt"
    turned.write_bytes(b"".join(lines[:1] + lines[:0:-1]))
    first, _ = glove.word_vectors(WORDS, text_file, seed=3)
    same, _ = glove.word_vectors(WORDS, str(turned), seed=3)
    other, _ = glove.word_vectors(WORDS, text_file, seed=4)
    np.testing.assert_array_equal(first, same)
    assert (first[1] != other[1]).all() and (first[4] == other[4]).all()


def pack_zip(path, names):
    """Write a .zip whose files all hold GLOVE, but with their own first number."""
    with zipfile.ZipFile(str(path), "w", zipfile.ZIP_DEFLATED) as archive:
        for number, name in enumerate(names):
            text = GLOVE.replace(b"the 0.5", b"the %d.5" % number)
            archive.writestr(name, text)
    return str(path)


@pytest.mark.parametrize(
    "names, chosen",
    [
        (["glove.txt"], 0),
        (["glove.vec"], 0),
        (["glove.6B.50d.txt", "glove.6B.300d.txt", "glove.6B.200d.txt"], 1),
        (["README.md", "glove.6B.50d.txt"], 1),
        (["glove.300d/", "glove.300d/vectors"], 1),
        (["crawl-300d-2M-subword.bin", "crawl-300d-2M-subword.vec"], 1),
    ],
)
def test_the_right_file_of_a_zip_is_read(tmp_path, names, chosen):
    path = pack_zip(tmp_path / "glove.zip", names)
    vectors = dict(glove.read_vectors(path, {"the"}))
    assert vectors["the"][0] == chosen + 0.5


def test_a_zip_with_several_candidates_lists_them(tmp_path):
    path = pack_zip(tmp_path / "glove.zip", ["a.50d.txt", "b.100d.txt"])
    with pytest.raises(UserError, match="a.50d.txt, b.100d.txt"):
        dict(glove.read_vectors(path, {"the"}))


def test_gz_and_windows_line_ends(text_file, tmp_path):
    path = str(tmp_path / "glove.txt.gz")
    with gzip.open(path, "wb") as file:
        file.write(GLOVE.replace(b"\n", b"\r\n"))
    expected, _ = glove.word_vectors(WORDS, text_file)
    np.testing.assert_array_equal(glove.word_vectors(WORDS, path)[0], expected)


@pytest.mark.parametrize(
    "line", [b"cut 0.5 0.25", b"cut", b"", b"long 0.5 0.5 0.5 0.5", b"word 0.5 x 0.5"]
)
def test_a_damaged_line_is_named(tmp_path, line):
    path = tmp_path / "glove.txt"
    path.write_bytes(GLOVE + line + b"\n")
    with pytest.raises(UserError, match="glove.txt, line 8: "):
        dict(glove.read_vectors(str(path), {"word"}))


@pytest.mark.parametrize("number", [b"nan", b"inf"])
def test_numbers_must_be_finite(tmp_path, number):
    path = tmp_path / "glove.txt"
    path.write_bytes(b"word 0.5 " + number + b" 0.5\n")
    with pytest.raises(UserError, match="line 1: .*finite"):
        dict(glove.read_vectors(str(path), {"word"}))


def cut_zip(folder):
    path = pack_zip(folder / "cut.zip", ["glove.txt"])
    with open(path, "r+b") as file:
        file.truncate(100)
    return path


def spoilt_zip(folder):
    """Write a .zip whose directory is whole and whose data is not."""
    path = pack_zip(folder / "spoilt.zip", ["glove.txt"])
    with open(path, "r+b") as file:
        file.seek(60)
        file.write(b"spoilt")
    return path


def cut_gz(folder):
    path = str(folder / "cut.gz")
    with open(path, "wb") as file:
        file.write(gzip.compress(GLOVE)[:-20])
    return path


def no_gz(folder):
    path = str(folder / "no.gz")
    with open(path, "wb") as file:
        file.write(GLOVE)
    return path


def empty(folder):
    path = str(folder / "empty.txt")
    open(path, "wb").close()
    return path


def missing(folder):
    return str(folder / "missing.txt")


@pytest.mark.parametrize("make", [cut_zip, spoilt_zip, cut_gz, no_gz, empty, missing])
def test_a_file_that_is_no_glove_file_leaves_nothing(
    make, vocabulary, tmp_path, capsys
):
    path = make(tmp_path)
    output = tmp_path / "out" / "emb.npy"
    assert run(path, vocabulary, output) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and os.path.basename(path) in error
    assert not output.exists()
    assert not output.parent.exists() or not os.listdir(str(output.parent))


def test_a_failure_keeps_the_older_table(vocabulary, tmp_path):
    output = tmp_path / "emb.npy"
    output.write_bytes(b"older")
    assert run(missing(tmp_path), vocabulary, output) == 2
    assert output.read_bytes() == b"older"


def test_the_command_reports_the_coverage(text_file, vocabulary, tmp_path, capsys):
    output = tmp_path / "out" / "emb.npy"
    assert run(text_file, vocabulary, output, "--seed", "5") == 0
    assert "4 of 10 words found (40.0 %)" in capsys.readouterr().out
    expected, _ = glove.word_vectors(WORDS, text_file, seed=5)
    np.testing.assert_array_equal(np.load(str(output)), expected)
    assert sorted(os.listdir(str(output.parent))) == ["emb.json", "emb.npy"]


def test_the_command_finds_the_files_of_a_data_set(text_file, vocabulary, tmp_path):
    os.rename(vocabulary, str(tmp_path / "vocabulary_Gref.txt"))
    assert glove.main([text_file, "-d", "unc", "--data", str(tmp_path)]) == 0
    assert np.load(str(tmp_path / "Gref_emb.npy")).shape == (10, 3)


@pytest.mark.parametrize("arguments", [[], ["--vocabulary", "a"], ["--output", "a"]])
def test_incomplete_command_lines_are_refused(arguments, capsys):
    assert glove.main(["glove.txt"] + arguments) == 2
    assert "give -d, or --vocabulary and --output" in capsys.readouterr().err


def test_a_seed_that_is_not_one_is_refused():
    with pytest.raises(SystemExit) as exit_info:
        glove.main(["glove.txt", "-d", "unc", "--seed", "-1"])
    assert exit_info.value.code == 2


# Two words as each writer puts them; one with blanks of Unicode's is there too.
FASTTEXT = (
    b"4 3\n</s> 0.1 0.2 0.3 \nleft 1 -2.5 3.0 \n"
    b"a\xc2\xa0b\xe2\x80\xa8c\xc2\x85 7.0 7.0 7.0 \nbox 4.0 5e-05 6.0 \n"
)
WORD2VEC = b"2 3\r\nleft 1 -2.5 3.0\r\nbox 4.0 5e-05 6.0\r\n"
GLOVE_HEADER = b"2 3\nleft 1 -2.5 3.0\nbox 4.0 5e-05 6.0\n<unk> 9.0 9.0 9.0\n"
GLOVE_2024 = GLOVE_HEADER[len(b"2 3\n") :]


def zipped(text, name):
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, text)
    return made.getvalue()


FORMS = {
    "crawl-300d-2M.vec": FASTTEXT,
    "wiki-news-300d-1M.vec.zip": zipped(FASTTEXT, "wiki-news-300d-1M.vec"),
    "cc.en.300.vec.gz": gzip.compress(FASTTEXT),
    "word2vec.txt": WORD2VEC,
    "vectors.txt": GLOVE_HEADER,
    "glove.2024.wikigiga.300d.zip": zipped(GLOVE_2024, "wiki_giga_2024_300.txt"),
}


@pytest.mark.parametrize("name", FORMS)
def test_each_form_gives_the_same_table(tmp_path, name, vocabulary, capsys):
    path, output = tmp_path / name, tmp_path / "emb.npy"
    path.write_bytes(FORMS[name])
    # A header is no word, whatever the vocabulary has.
    words = ["<pad>", "<go>", "<eos>", "<unk>", "2", "left", "4", "box"]
    with open(vocabulary, "w") as file:
        file.write("".join(word + "\n" for word in words))
    assert run(str(path), vocabulary, output) == 0
    printed = capsys.readouterr()
    assert "2 of 8 words found (25.0 %)" in printed.out
    assert "warning" not in printed.err
    table = np.load(str(output))
    assert table.dtype == np.float32 and table.shape == (8, 3)
    np.testing.assert_array_equal(table[5], np.float32([1, -2.5, 3]))
    np.testing.assert_array_equal(table[7], np.float32([4, 5e-05, 6]))
    assert (table[0] == 0).all() and len(np.unique(table, axis=0)) == 8


def test_header_with_another_length_is_refused(tmp_path):
    path = tmp_path / "vectors.txt"
    path.write_text("2 4\nleft 1.0 2.0 3.0\n")
    with pytest.raises(UserError, match="line 2: 4 fields where .* 4 numbers"):
        list(glove.read_vectors(str(path), ["left"]))


def test_fewer_vectors_than_the_header_says_are_warned_of(tmp_path, capsys):
    path = tmp_path / "vectors.vec"
    path.write_text("3 2\nleft 1.0 2.0\nbox 1.0 2.0\n")
    assert len(list(glove.read_vectors(str(path), ["left"]))) == 1
    (line,) = re.findall("warning: .*", capsys.readouterr().err)
    assert line.endswith("has 2 vectors, its first line says 3: was it cut off?")


def test_binary_vectors_are_refused(tmp_path, vocabulary, capsys):
    """Word2vec's own form: numbers of four bytes behind the same header."""
    vectors = np.random.RandomState(0).normal(size=(3, 300)).astype("<f4")
    path = tmp_path / "GoogleNews-vectors-negative300.bin.gz"
    lines = [b"%d " % number + row.tobytes() for number, row in enumerate(vectors)]
    path.write_bytes(gzip.compress(b"3 300\n" + b"".join(lines)))
    assert run(str(path), vocabulary, tmp_path / "emb.npy") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and error.endswith("download it again, as text")


def test_line_of_gigabytes_is_not_read_whole(tmp_path):
    path = tmp_path / "vectors.zip"
    with zipfile.ZipFile(str(path), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("glove.txt", b"a" * 2**26)
    tracemalloc.start()
    with pytest.raises(UserError, match="line 1: .* bytes or more"):
        list(glove.read_vectors(str(path), ["a"]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**24
