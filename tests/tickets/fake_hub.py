"""The Hugging Face Hub as a folder: what huggingface_hub would do, without a network."""

import shutil
from pathlib import Path
from types import SimpleNamespace

from huggingface_hub.errors import LocalEntryNotFoundError


class FakeHub:
    """A folder for each repository; ``calls`` are what was asked for."""

    def __init__(self, root):
        self.root, self.private, self.calls = Path(root), {}, []

    def make_api(self, token=None):
        self.calls.append(("token", token))
        return SimpleNamespace(create_repo=self.create_repo, repo_info=self.repo_info, upload_folder=self.upload_folder)

    def create_repo(self, repo_id, *, private=None, exist_ok=False):
        assert exist_ok
        self.private.setdefault(repo_id, private)
        return f"https://hub.example/{repo_id}"

    def repo_info(self, repo_id):
        return SimpleNamespace(private=self.private[repo_id])

    def upload_folder(self, *, repo_id, folder_path, commit_message):
        assert commit_message
        shutil.copytree(folder_path, self.root / repo_id, dirs_exist_ok=True)

    def download(self, repo_id, filename, *, revision=None, token=None):
        self.calls.append(("download", revision, token))
        path = self.root / repo_id / filename
        if not path.exists():
            raise LocalEntryNotFoundError(f"{repo_id} has no {filename}")
        return str(path)
