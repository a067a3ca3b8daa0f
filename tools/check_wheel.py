"""Install the wheel in DIR into a clean environment and use it there: `python tools/check_wheel.py DIR`. Prints the wheel's size."""

import subprocess
import sys
import tempfile
from pathlib import Path

LIMIT = 60e6  # bytes


def main() -> None:
    wheel = max(Path(sys.argv[1]).glob("*.whl"), key=lambda path: path.stat().st_mtime)
    size = wheel.stat().st_size
    print(f"{wheel.name}: {size / 1e6:.1f} MB")
    if size > LIMIT:
        sys.exit(f"the wheel is larger than {LIMIT / 1e6:.0f} MB")
    with tempfile.TemporaryDirectory() as folder:
        # The dependencies come from the environment that runs the checks; the package itself only from the wheel.
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder, str(wheel)], check=True)
        code = (
            f"import sys; sys.path.insert(0, {folder!r}); import modeseek, modeseek.cli; "
            f"assert modeseek.__file__.startswith({folder!r}), modeseek.__file__; "
            "modeseek.embedded('pinwheel'); print('the wheel works:', modeseek.load_prior('solids').event)"
        )
        subprocess.run([sys.executable, "-c", code], check=True, cwd=folder)


if __name__ == "__main__":
    main()
