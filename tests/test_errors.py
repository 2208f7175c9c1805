"""What a terminal or a log is shown of names that anybody may have chosen."""

import pytest

from ufm_jax.errors import one_line, printable


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("plain.png", "plain.png"),
        ("größe 3.png", "größe 3.png"),
        ("\x1b[2Jgone", r"\x1b[2Jgone"),
        ("bell\a", r"bell\x07"),
        ("back\b\r", r"back\x08\r"),
        ("\x9b31m", r"\x9b31m"),
        ("rtl\u202egnp.exe", r"rtl\u202egnp.exe"),
        ("klinik_\udcfc", r"klinik_\udcfc"),
        ("two\nlines", r"two\nlines"),
    ],
)
def test_control_characters_are_written_and_not_obeyed(name, shown):
    assert printable(name) == shown
    shown.encode()


def test_a_message_of_several_lines_becomes_one():
    assert one_line("2 images have no label:\n  a.png\n  b.png\n") == (
        "2 images have no label: a.png; b.png"
    )
    assert "\n" not in one_line("a\x0bb\x85c\u2028d\ne\r\nf")


def test_a_message_has_a_bounded_length():
    assert len(one_line("x" * 10**6)) < 5000
    assert one_line("x" * 4000) == "x" * 4000
