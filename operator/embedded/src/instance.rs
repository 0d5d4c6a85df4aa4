//! Folders: where builds are kept and where a running control plane has its data.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use crate::error::Error;

/// Where builds and data are kept: `DUOSUAN_CACHE`, or the workspace's `target/embedded` where there is a workspace, or
/// `duosuan` in the user's cache folder.
pub(crate) fn cache_dir() -> PathBuf {
    if let Some(dir) = std::env::var_os("DUOSUAN_CACHE").filter(|dir| !dir.is_empty()) {
        return PathBuf::from(dir);
    }
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    if let Ok(workspace) = workspace.canonicalize()
        && workspace.join("Cargo.toml").is_file()
    {
        return workspace.join("target/embedded");
    }
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|dir| dir.is_absolute())
        .or(home);
    cache.unwrap_or_else(std::env::temp_dir).join("duosuan")
}

/// The folder of one running control plane, held by a lock on a file in it.
#[derive(Debug)]
pub(crate) struct Instance {
    path: PathBuf,
    temporary: bool,
    _lock: File,
}

impl Instance {
    /// Takes `dir`, which stays, or makes one that goes away with the value.
    pub(crate) fn take(dir: Option<&Path>) -> Result<Instance, Error> {
        if let Some(dir) = dir {
            fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
            let path = dir.canonicalize().map_err(Error::io("find", dir))?;
            let lock = hold(&path)?.ok_or_else(|| Error::DirInUse { path: path.clone() })?;
            return Ok(Instance {
                path,
                temporary: false,
                _lock: lock,
            });
        }
        let parent = cache_dir().join("run");
        fs::create_dir_all(&parent).map_err(Error::io("create", &parent))?;
        // One process at a time: between the making of a folder and its lock it looks like one that was left over.
        let gate = parent.join("lock");
        let file = File::create(&gate).map_err(Error::io("create", &gate))?;
        file.lock().map_err(Error::io("lock", &gate))?;
        remove_left_over(&parent);
        let made = tempfile::Builder::new()
            .prefix("cp-")
            .tempdir_in(&parent)
            .map_err(Error::io("create", &parent))?;
        let lock = hold(made.path())?.ok_or_else(|| Error::DirInUse {
            path: made.path().to_owned(),
        })?;
        Ok(Instance {
            path: made.keep(),
            temporary: true,
            _lock: lock,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if self.temporary {
            let _gone_already = fs::remove_dir_all(&self.path);
        }
    }
}

/// Locks the folder for this process; None if another has it.
fn hold(dir: &Path) -> Result<Option<File>, Error> {
    let path = dir.join("lock");
    let file = File::create(&path).map_err(Error::io("create", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(fs::TryLockError::WouldBlock) => Ok(None),
        Err(fs::TryLockError::Error(error)) => Err(Error::io("lock", &path)(error)),
    }
}

/// Removes the folders of processes that were killed: their lock is free.
fn remove_left_over(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.join("lock").is_file() && matches!(hold(&path), Ok(Some(_))) {
            let _next_time = fs::remove_dir_all(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn what_a_killed_process_left_is_removed_and_what_is_held_stays() {
        let parent = tempfile::tempdir().unwrap();
        let (dead, alive) = (parent.path().join("dead"), parent.path().join("alive"));
        for dir in [&dead, &alive] {
            fs::create_dir(dir).unwrap();
            fs::write(dir.join("lock"), "").unwrap();
        }
        let held = hold(&alive).unwrap();
        assert!(held.is_some());
        remove_left_over(parent.path());
        assert!(!dead.exists());
        assert!(alive.exists());
    }

    #[test]
    fn a_folder_in_use_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let _first = Instance::take(Some(dir.path())).unwrap();
        let error = Instance::take(Some(dir.path())).unwrap_err().to_string();
        assert!(
            error.ends_with("is in use by another control plane: end it or choose another directory"),
            "{error}"
        );
    }
}
