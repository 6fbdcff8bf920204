"""Child processes end with their parent, also one that was gone before they asked, and keep standard output clean."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from npo_core.process import without_secrets
from npo_core.stages.forked import Forked, ForkServer

ROOT = Path(__file__).parents[1]


def gone(pid: int, seconds: float = 60.0) -> bool:
    """Whether a process ends in time; one that nobody has waited for has ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.02)
    return False


def start(code: str, *arguments: str, **options) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", code, *arguments], cwd=ROOT, text=True, **options)


CHILD = """
import os, sys, time
from npo_core.process import die_with_parent
open(sys.argv[2] + ".started", "w").write(str(os.getpid()))
while not os.path.exists(sys.argv[2] + ".go"):
    time.sleep(0.01)
die_with_parent(int(sys.argv[1]))
open(sys.argv[2], "w").close()
time.sleep(600)
"""
PARENT = """
import os, subprocess, sys, time
subprocess.Popen([sys.executable, "-c", sys.argv[1], str(os.getpid()), sys.argv[2]], start_new_session=True)
time.sleep(600)
"""


@pytest.mark.parametrize("early", [True, False])
def test_a_child_ends_with_its_parent(tmp_path, early):
    """`early`: the parent is killed before the child asks to die with it."""
    file, started = tmp_path / "asked", tmp_path / "asked.started"
    parent = start(PARENT, CHILD, str(file))
    while not started.exists() or not started.read_text():
        time.sleep(0.01)
    child = int(started.read_text())
    if not early:
        Path(f"{file}.go").touch()
        while not file.exists():
            time.sleep(0.01)
    parent.kill()
    parent.wait()
    Path(f"{file}.go").touch()
    assert gone(child)
    assert file.exists() != early


SLOW_IMPORT = """
import os, sys, time
class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "npo_core.training.build":
            open(os.environ["IMPORTS"], "w").close()
            time.sleep(600)
sys.meta_path.insert(0, Slow())
"""


def test_a_fork_server_ends_with_its_parent_while_it_still_imports(tmp_path):
    """Reading the end of its standard input would come after the imports, which take ten minutes here."""
    (tmp_path / "sitecustomize.py").write_text(SLOW_IMPORT)
    imports = tmp_path / "imports"
    code = (
        "import time\n"
        "from npo_core.config import Execution\n"
        "from npo_core.stages.forked import ForkServer\n"
        "print(ForkServer(Execution(device='cpu', threads=1)).process.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "IMPORTS": str(imports)}
    parent = start(code, stdout=subprocess.PIPE, env=environment)
    server = int(parent.stdout.readline())
    while not imports.exists():
        assert psutil.pid_exists(server)
        time.sleep(0.01)
    parent.kill()
    parent.wait()
    assert gone(server)


def test_what_libraries_print_does_not_reach_a_fork_servers_answers():
    code = (
        "import os, npo_core.stages.forkserver as f\n"
        "f.PRELOADED = ('this',)\n"
        "answers, theirs = os.pipe()\n"
        "f.serve(theirs)\n"
        "os.close(theirs)\n"
        "print('answers', os.read(answers, 99))\n"
    )
    served = start(code, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    printed, _ = served.communicate(timeout=300)
    assert "Namespaces are one honking great idea" in printed and printed.endswith("answers b''\n")


def test_an_answer_that_is_none_ends_the_fork_server_and_its_stages(capfd):
    server, (answers, theirs) = ForkServer.__new__(ForkServer), os.pipe()
    server.process = subprocess.Popen(["sleep", "600"])
    server.answers, server.news = {0: {}}, threading.Condition()
    os.write(theirs, b'{"id": 0, "pid": 12}\nhello\n{"id": 0, "exit": 0}\n')
    server._listen(answers)
    os.close(theirs)
    assert server.process.wait(20) == -signal.SIGKILL
    assert Forked(server, 0).pid == 12 and Forked(server, 0).wait(1) == -9
    assert "wrote b'hello\\n', which is no answer" in capfd.readouterr().err


def test_what_verifies_gets_no_credentials_of_store_and_server():
    given = {"AWS_SECRET_ACCESS_KEY": "s", "AWS_DEFAULT_REGION": "r", "PREFECT_API_AUTH_STRING": "p", "JUDGE_KEY": "j"}
    assert without_secrets(given) == {"AWS_DEFAULT_REGION": "r", "JUDGE_KEY": "j"}
    kept = given | {"NPO_KEEP_VARIABLES": "AWS_SECRET_ACCESS_KEY,OTHER"}
    assert without_secrets(kept)["AWS_SECRET_ACCESS_KEY"] == "s"


def test_what_is_printed_inside_goes_to_standard_error():
    code = (
        "import os\n"
        "from npo_core.process import quiet_stdout\n"
        "print('before', flush=True)\n"
        "with quiet_stdout():\n"
        "    print('inside')\n"
        "    os.system('echo child')\n"
        "print('after')\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True)
    assert (result.stdout, sorted(result.stderr.split())) == ("before\nafter\n", ["child", "inside"])


def test_a_function_that_prints_leaves_standard_output_alone(tmp_path):
    (tmp_path / "loud.py").write_text(
        "import os\nprint('imported')\n\n"
        "def reward(prompt, completion, answer):\n"
        "    print('called', flush=True)\n    os.system('echo child')\n    return 1.0\n"
    )
    code = (
        "from npo_core.config import Execution\n"
        "from npo_core.config.verifier import FunctionVerifier\n"
        "from npo_core.problems import Completion, Problem\n"
        "from npo_core.problems.judge import make_judge\n"
        "verifier = FunctionVerifier(kind='function', path='loud:reward')\n"
        "judge = make_judge(verifier, '(.)', Execution(verifier_workers=1))\n"
        "print(judge([Completion(Problem('0' * 16, '?', 'a', 0), 'a', 1, True)])[0].accuracy)\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    result = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, env=environment)
    assert result.stdout == "1.0\n", result.stderr
    assert all(said in result.stderr for said in ("imported", "called", "child"))
