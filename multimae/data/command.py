"""The command `multimae data`: from archives to the layout that training reads, and whether what lies there is good.

What follows a subcommand is its own: each has its own --help. No torch.
"""

import argparse
import os
import pkgutil
import sys
from collections.abc import Sequence

COMMANDS = {  # what each is, and the function that takes its arguments
    "prepare": ("the archives that a data set's makers publish -> a folder for --data", "data.prepare.command:main"),
    "label": ("predict depth and semantic labels of photographs by off-the-shelf networks", "label:main"),
    "check": ("say what is wrong with a folder, before a training finds it", "data.check:main"),
    "show": ("look at samples as training sees them", "data.show:main"),
    "pack": ("some hundred large files in place of millions, for file systems that many share", "data.packing:main"),
    "unpack": ("the folder of a pack again", "data.packing:main_unpack"),
}


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] in COMMANDS:
        function = pkgutil.resolve_name(f"multimae.{COMMANDS[arguments[0]][1]}")
        try:
            code = function(arguments[1:])
            sys.stdout.flush()
            return code
        except BrokenPipeError:  # who read has seen enough, such as `head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 2
    parser = argparse.ArgumentParser(prog="multimae data", description=__doc__.splitlines()[0].partition(": ")[2])
    commands = parser.add_subparsers(required=True, metavar=" | ".join(COMMANDS))
    for name, (what, _) in COMMANDS.items():
        commands.add_parser(name, help=what, add_help=False)
    parser.parse_args(arguments)
    return 2


if __name__ == "__main__":
    sys.exit(main())
