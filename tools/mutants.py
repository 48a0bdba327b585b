"""`make mutants`: change the code of the method and the data on purpose, and run their tests.

mutmut makes the changes, one at a time, and runs the tests that call the changed function. A
change that no test notices survives. The settings of mutmut are in pyproject.toml, the accepted
survivors with their reasons in tools/mutants.md.
"""

import argparse
import functools
import gc
import math
from collections import Counter

import hypothesis
import libcst
from _pytest.runner import runtestprotocol
from mutmut import __main__ as mutmut
from mutmut.mutation import file_mutation
from mutmut.runners.harness import PytestRunner
from mutmut.state import state
from mutmut.utils import file_utils
from mutmut.workers.isolation import ForkServerRunner

# Watch: the curves of a run. compute: evaluate copies its code object.
NOT_MUTATED = ("Watch", "compute")
KEPT = ("staticmethod", "classmethod")  # decorators that mutmut handles

plain_skip = file_mutation.MutationVisitor._skip_node_and_children
plain_arrangement = file_mutation.function_trampoline_arrangement
plain_submit = ForkServerRunner.submit
plain_serve = ForkServerRunner._forkserver_main
NOTICED = ("killed", "timeout", "segfault")
WARM_UP = ("tests/cli/test_train.py", "tests/method/test_hidden.py")


def skip(visitor, node):
    """Return whether mutmut skips a node; it would also skip every decorated function."""
    if isinstance(node, libcst.FunctionDef | libcst.ClassDef) and node.name.value in NOT_MUTATED:
        return True
    return not isinstance(node, libcst.FunctionDef) and plain_skip(visitor, node)


def arrangement(function, mutants, class_name):
    """Return what mutmut makes of a function; only the first of its versions is decorated."""
    before, (first, *versions), after, names = plain_arrangement(function, mutants, class_name)
    if not any(getattr(one.decorator, "value", "") in KEPT for one in function.decorators):
        versions = [version.with_changes(decorators=()) for version in versions]
    return before, [first, *versions], after, names


def submit(runner, name, tests, _limit, _estimated, seconds):
    """Submit a mutant with its quickest tests first; slow ones beyond `seconds` are left out."""
    quickest, total = [], 0.0
    for test in sorted(tests, key=state().duration_by_test.__getitem__):
        if quickest and total + state().duration_by_test[test] > seconds:
            break
        quickest.append(test)
        total += state().duration_by_test[test]
    plain_submit(runner, name, quickest, math.ceil(6 * total + 30), total)  # seconds of the CPU


class InTestLoop:
    """A plugin of pytest that serves mutants in its test loop, so none needs a collection."""

    def __init__(self, serve):
        self.serve = serve

    def pytest_sessionstart(self):
        """Do not search for the smallest input that fails."""
        phases = [hypothesis.Phase.explicit, hypothesis.Phase.generate]
        same = hypothesis.settings.get_profile("same")
        hypothesis.settings.register_profile("quick", same, phases=phases)
        hypothesis.settings.load_profile("quick")

    def pytest_runtestloop(self, session):
        """Import packages and make session fixtures by a few tests, then serve."""
        self.items = {item.nodeid: item for item in session.items}
        first = [name for name in self.items if name.startswith(WARM_UP)]
        assert self.run_tests(mutant_name=None, tests=first) == 0
        gc.freeze()
        PytestRunner.run_tests = self.run_tests
        self.serve()
        return True

    def run_tests(self, *, mutant_name, tests):
        """Return 1 after the first test that fails, otherwise 0."""
        chain = [self.items[name] for name in tests]
        spare = next(item for item in self.items.values() if item not in chain[-1:])
        for item, following in zip(chain, [*chain[1:], spare]):
            if any(one.failed for one in runtestprotocol(item, log=False, nextitem=following)):
                return 1
        return 0


def serve(server, work, results):
    """Run the fork server of mutmut in the test loop of pytest."""
    PytestRunner.warm_up = lambda runner: None
    plugin = InTestLoop(functools.partial(plain_serve, server, work, results))
    with file_utils.change_cwd("mutants"):
        PytestRunner().execute_pytest(
            ["-q", *mutmut.config().pytest_add_cli_args_test_selection], plugins=[plugin])


def report():
    """Print the change of each mutant that no test noticed, and the totals by file."""
    table, total = [], Counter()
    for path in sorted(mutmut.walk_mutatable_files()):
        data = mutmut.SourceFileMutationData(path=path)
        data.load()
        found = Counter()
        for name, code in data.exit_code_by_key.items():
            status = "error" if code == 255 else mutmut.status_by_exit_code[code]
            found[status] += 1
            if status not in (*NOTICED, "not checked"):
                print(f"\n# {name}: {status}\n{mutmut.get_diff_for_mutant(name, path=path)}")
        total += found
        table.append((path, found))
    print(f"\n{'file':24}{'mutants':>9}{'noticed':>9}")
    for label, found in [*table, ("total", total)]:
        if made := sum(found.values()):
            print(f"{label!s:24}{made:9}{sum(found[one] for one in NOTICED) / made:9.1%}  "
                  + ", ".join(f"{number} {status}" for status, number in sorted(found.items())))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="patterns of mutants, such as 'smp.data.*'; "
                        "without a pattern: those that were not tested since the last change")
    parser.add_argument("--seconds", type=float, default=20,
                        help="run the quickest tests of a mutant, for so long in all (default 20)")
    parser.add_argument("--report", action="store_true", help="only print the last results")
    chosen = parser.parse_args()
    file_mutation.MutationVisitor._skip_node_and_children = skip
    file_mutation.function_trampoline_arrangement = arrangement
    ForkServerRunner._forkserver_main = serve
    ForkServerRunner.submit = functools.partialmethod(submit, seconds=chosen.seconds)
    if not chosen.report:
        mutmut._run(tuple(chosen.names), 1)
    report()
