"""Runs the checks of this folder; arguments choose by name."""

import sys
import warnings

warnings.simplefilter("ignore")

import torch
import transformers

import check_adapters_in
import check_adapters_out
import check_convert
import check_qlora
import check_text
import check_training
import support


def main():
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    good = support.run_checks(sys.argv[1:])
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
