//! The workspace's own programs, built once, run as processes.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{fs, process};

use crate::python::run;

/// The path of a program of the workspace, in the profile of this test.
pub(crate) fn program(name: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        // target/<profile>/deps/system-<hash>
        let this = env::current_exe().expect("this test is a file");
        let folder = this
            .ancestors()
            .nth(2)
            .expect("below the profile's folder")
            .to_owned();
        let mut build = Command::new(env!("CARGO"));
        build.args([
            "build",
            "-q",
            "-p",
            "sentinel",
            "-p",
            "gateway",
            "-p",
            "anchor",
            "--target-dir",
        ]);
        build.arg(folder.parent().expect("below the target folder"));
        if folder.ends_with("release") {
            build.arg("--release");
        }
        run(build.current_dir(env!("CARGO_MANIFEST_DIR")));
        folder
    });
    folder.join(name)
}

/// A new empty folder, removed when dropped.
#[derive(Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!(
            "test-{}-{}",
            process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&path).expect("the target folder is writable");
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// A new folder with the same content.
    pub(crate) fn copied(&self) -> Self {
        let copy = Self::new();
        copy_tree(&self.0, &copy.0);
        copy
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Best effort: what is left is in the target folder.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("the target folder is writable");
    for item in fs::read_dir(from).expect("a folder that a test made") {
        let item = item.expect("readable").path();
        let place = to.join(item.file_name().expect("it has a name"));
        if item.is_dir() {
            copy_tree(&item, &place);
        } else {
            fs::copy(&item, &place).expect("the target folder is writable");
        }
    }
}
