"""What each command of ``python -m ovdemo`` does."""
