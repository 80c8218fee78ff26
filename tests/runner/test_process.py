"""Does a script notice that it is watched? Its streams, exit code and signals, beside those of Python alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap

import pytest

SCRIPTS = {
    "main_module": """
        import __main__, os, sys
        print(sys.argv, sys.path[0], os.getcwd(), __main__.__dict__ is globals())
        print(__name__, __file__, __spec__, __package__, __cached__, __doc__, type(__loader__).__name__)
        print(sorted(vars(__main__)))
    """,
    "encoding": "# -*- coding: latin-1 -*-\nprint('caf\xe9', vars().get('__annotations__'))\nn: int = 1",
    "argparse_usage": """
        import argparse
        parser = argparse.ArgumentParser()
        parser.add_argument("--lr", type=float, required=True)
        parser.parse_args(["--wrong"])
    """,
    "classes": """
        import inspect, pickle, typing
        from dataclasses import dataclass
        @dataclass
        class Config:
            width: "int" = 3
        print(pickle.loads(pickle.dumps(Config())), typing.get_type_hints(Config), inspect.getsource(Config))
    """,
    "exit_code": "import sys; sys.exit(3)",
    "exit_message": "import sys; print('out'); sys.exit('a message')",
    "exit_silently": "raise SystemExit",
    "os_exit": "import os; print('out', flush=True); os._exit(9)",
    "raises": """
        def inner():
            try:
                {}["x"]
            except KeyError as error:
                raise ValueError("bad") from error
        inner()
    """,
    "raises_group": "raise ExceptionGroup('several', [ValueError(1), TypeError(2)])  # a NameError in Python 3.10",
    "syntax_error": "number = 1\ndef f(:\n    pass",
    "missing_import": "import nothing_of_that_name",
    "own_excepthook": """
        import sys
        sys.excepthook = lambda kind, error, tb: print("hook:", kind.__name__, error, tb.tb_frame.f_code.co_name)
        1 / 0
    """,
    "interrupted": """
        import atexit, os, signal, time
        atexit.register(print, "at exit")
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
    """,
    "interrupt_caught": """
        import os, signal, time
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        except KeyboardInterrupt:
            print("saved")
    """,
    "terminated": "import os, signal, time; os.kill(os.getpid(), signal.SIGTERM); time.sleep(5)",
    "own_handlers": """
        import os, signal, sys, time
        print([signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD)])
        print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
        signal.signal(signal.SIGTERM, lambda *args: sys.exit(7))
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    """,
    "threads": """
        import atexit, threading, time
        atexit.register(print, "at exit")
        threading.Thread(target=lambda: (time.sleep(0.3), print("thread"))).start()
        print("last line")
    """,
    "a_pool_of_threads_left_open": """
        import concurrent.futures, threading, time
        pool = concurrent.futures.ThreadPoolExecutor(2)
        pool.submit(lambda: (time.sleep(0.2), print("done")))
        def late():
            time.sleep(0.5)
            try:
                pool.submit(int)
            except RuntimeError as error:
                print(error)
        threading.Thread(target=late).start()
        print("last line")
    """,
    "forks": """
        import os, sys
        if (child := os.fork()) == 0:
            sys.exit(5)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """,
    "pools": """
        import multiprocessing
        class Thing:
            number = 2
        def work(thing):
            return thing.number * 2
        if __name__ == "__main__":
            for how in ("fork", "spawn"):
                with multiprocessing.get_context(how).Pool(1) as pool:
                    print(how, pool.map(work, [Thing()]))
    """,
    "stdin": "import sys; print(sys.stdin.read().split())",
    "chdir": "import os; os.chdir('/'); print(os.getcwd())",
    "bytes": "import sys; sys.stdout.buffer.write(bytes(range(256))); sys.stdout.flush()",
    "imports_nothing": "import sys; print('torch' in sys.modules, 'numpy' in sys.modules)",
}


def python(*arguments, cwd, stdin="one two"):
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, input=stdin.encode(), capture_output=True, check=False, timeout=120
    )


def under_watch(*arguments, cwd, stdin="one two"):
    return python("-m", "gradtrace", "run", *arguments, cwd=cwd, stdin=stdin)


def without_ours(stderr: bytes) -> bytes:
    return b"".join(line for line in stderr.splitlines(keepends=True) if not line.startswith(b"gradtrace: "))


def assert_alike(alone, watched):
    assert watched.stdout == alone.stdout
    assert without_ours(watched.stderr) == alone.stderr
    assert watched.returncode == alone.returncode


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_does_as_it_does_alone(name, tmp_path):
    text = textwrap.dedent(SCRIPTS[name])
    (tmp_path / "script.py").write_bytes(text.encode("latin-1"))
    arguments = ["script.py", "--x", "-m", "--", "--path", "y"]
    assert_alike(python(*arguments, cwd=tmp_path), under_watch(*arguments, cwd=tmp_path))


def test_a_script_elsewhere_and_behind_a_link(tmp_path):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "beside.py").write_text("number = 42")
    (tmp_path / "code" / "script.py").write_text("import beside, sys; print(beside.number, sys.path[0], __file__)")
    (tmp_path / "link.py").symlink_to(tmp_path / "code" / "script.py")
    for script in ("code/script.py", "./code/../code/script.py", str(tmp_path / "code" / "script.py"), "link.py"):
        alone = python(script, cwd=tmp_path)
        assert alone.stdout.startswith(b"42 ")
        assert_alike(alone, under_watch(script, cwd=tmp_path))


def test_a_folder_with_a_main(tmp_path):
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "__main__.py").write_text("import sys; print(sys.argv, sys.path[0], __file__, __package__)")
    assert_alike(python("app", "x", cwd=tmp_path), under_watch("app", "x", cwd=tmp_path))


@pytest.fixture
def package(tmp_path):
    (tmp_path / "pkg").mkdir()
    parts = {
        "__init__": "import sys; print('package', sys.argv[0])",
        "__main__": "import sys; print('main', __package__, __spec__.name, sys.argv)",
        "other": "number = 5",
        "train": """
            import multiprocessing, sys
            from . import other
            def work(number):
                return number + other.number
            if __name__ == "__main__":
                print(__package__, __spec__.name, sys.argv, sys.path[0], __file__)
                with multiprocessing.get_context("spawn").Pool(1) as pool:
                    print(pool.map(work, [1, 2]))
        """,
        "fails": "import sys; print('x'); sys.exit(4)",
        "broken": "import nothing_of_that_name",
    }
    for name, text in parts.items():
        (tmp_path / "pkg" / f"{name}.py").write_text(textwrap.dedent(text))
    return tmp_path


@pytest.mark.parametrize("arguments", [["pkg.train", "--lr", "3", "-m", "x"], ["pkg", "a"], ["pkg.fails"]])
def test_a_module_does_as_it_does_alone(arguments, package):
    assert_alike(python("-m", *arguments, cwd=package), under_watch("-m", *arguments, cwd=package))


def test_a_module_that_fails_to_import_shows_its_own_traceback(package):
    alone, watched = (run("-m", "pkg.broken", cwd=package) for run in (python, under_watch))
    own = [line for line in alone.stderr.splitlines(keepends=True) if b"<frozen runpy>" not in line]
    assert without_ours(watched.stderr) == b"".join(own)
    assert watched.returncode == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere.py"], "there is no file nowhere.py (from {cwd})"),
        (["train"], "there is no file train (from {cwd}); for a module: gradtrace run -m train"),
        (["pkg"], "the folder pkg has no __main__.py (from {cwd})"),
        (["-m", "nowhere.train"], "there is no module 'nowhere.train' (from {cwd})"),
        (["-m", "beside.py"], "-m takes a module's name, and beside.py is a file: gradtrace run beside.py"),
        (["--sink", "neptune", "beside.py"], "a sink is one of tensorboard, wandb, mlflow, trackio"),
    ],
)
def test_bad_input_is_one_sentence(arguments, sentence, tmp_path):
    (tmp_path / "pkg").mkdir()
    (tmp_path / "beside.py").write_text("print('ran')")
    result = under_watch(*arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stdout == b""
    assert result.stderr.decode().startswith(f"gradtrace: {sentence.format(cwd=tmp_path)}")
    assert result.stderr.count(b"\n") == 1


def test_a_pipe_that_closes_early(tmp_path):
    (tmp_path / "script.py").write_text("for number in range(100000): print(number)")
    codes = []
    for command in ([], ["-m", "gradtrace", "run"]):
        process = subprocess.Popen(
            [sys.executable, *command, "script.py"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        with process:
            assert process.stdout.readline() == b"0\n"
            process.stdout.close()
            error = process.stderr.read()
        codes.append(process.returncode)
        assert b"BrokenPipeError" in error
        assert b"gradtrace/" not in error
    assert codes[0] == codes[1]


def test_ctrl_c_while_a_thread_is_awaited(tmp_path):
    text = "import threading, time; threading.Thread(target=time.sleep, args=(3,)).start(); print('x', flush=True)"
    (tmp_path / "script.py").write_text(text)
    command = [sys.executable, "-m", "gradtrace", "run", "script.py"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"x\n"
        os.kill(process.pid, signal.SIGINT)
        try:
            _, error = process.communicate(timeout=60)
        finally:
            process.kill()
    assert b"KeyboardInterrupt" in error
    assert b"gradtrace/runner" not in error
