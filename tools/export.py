"""Exports a fine-tuned model as a folder that others can open, with a model card.

    python -m tools.export --run=runs/mine --out=EXPORT

writes config.json and model.safetensors as the Hugging Face hub and timm have them, README.md as
the model card, and program.stablehlo, which takes pictures of any size and needs no ufm_jax.
--forms=weights,stablehlo,onnx adds model.onnx. See docs/weights.md.
"""

import argparse
import sys
from collections.abc import Sequence

from tools.exports.card import Sayings, model_card
from tools.exports.onnx_program import make_onnx
from ufm_jax.config.command import path_argument
from ufm_jax.config.finetuning import resolve_finetune
from ufm_jax.door import enter, say
from ufm_jax.errors import ConfigError
from ufm_jax.files import private_folder, replacing, write_text
from ufm_jax.prediction.program import PROGRAMS, make_program
from ufm_jax.runs.portable import save_portable
from ufm_jax.runs.trained_model import load_config, load_model

_FORMS = ("weights", *PROGRAMS)
_MAKE = {"stablehlo": make_program, "onnx": make_onnx}


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses arguments and exports.

    Raises:
        ConfigError: If the run or the folder cannot be used.
        DataError: If a package that makes a form is not installed.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--run", type=path_argument, required=True, help="a fine-tuned run")
    parser.add_argument("--out", type=path_argument, required=True, help="a new or empty folder")
    parser.add_argument(
        "--forms", default="weights,stablehlo", help=f"some of {','.join(_FORMS)}; weights always"
    )
    parser.add_argument("--client", default="", help="whose model, where clients have their own")
    parser.add_argument("--license", default="other", help="of the model, for the card's header")
    parser.add_argument(
        "--data", default="", help="Markdown for the card: images and their licences"
    )
    parser.add_argument("--use", default="", help="Markdown for the card: what the model is for")
    options = parser.parse_args(arguments)
    forms = options.forms.split(",")
    if unknown := sorted(set(forms) - set(_FORMS)):
        raise ConfigError(f"--forms={options.forms}: unknown {unknown}; some of {_FORMS}")
    out = options.out
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--out={out} is not an empty folder; name another one")
    config = resolve_finetune(load_config(options.run))
    model = load_model(options.run).for_client(options.client)
    # Before anything is written, since these find what is missing or damaged.
    sayings = Sayings(options.license, options.data, options.use)
    card = model_card(options.run, config, model, forms, sayings)
    programs = {PROGRAMS[form]: _MAKE[form](config, model) for form in forms if form in PROGRAMS}
    private_folder(out)
    save_portable(out, config, model)
    for name, content in programs.items():
        with replacing(out / name) as partial:
            partial.write_bytes(content)
    write_text(out / "README.md", card)
    for file in sorted(out.iterdir()):
        say(f"{file}: {file.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(enter(main))
