"""``python -m ddfm_monai`` is the command ``ddfm``."""

from ddfm_monai.cli.main import main

if __name__ == "__main__":
    main()
