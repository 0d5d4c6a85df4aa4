//! A cgroup's directory, held open, and its files, opened once.

use std::{
    cell::RefCell,
    collections::{BTreeMap, btree_map},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, fstat, openat, statat},
    io::{Errno, write},
};

use crate::{
    error::{Cause, Error},
    text::{Shape, with_text},
};

const DIRECTORY: OFlags = OFlags::DIRECTORY
    .union(OFlags::CLOEXEC)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::RDONLY);
const READ: OFlags = OFlags::RDONLY.union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);
// A kernel's file takes each write as its whole value, truncated or not; a shell's `>` truncates, too.
const WRITE: OFlags = OFlags::WRONLY
    .union(OFlags::TRUNC)
    .union(OFlags::CLOEXEC)
    .union(OFlags::NOFOLLOW);

/// Which cgroup it is: a name may be taken by another one, this may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity {
    /// Device of the cgroup filesystem.
    pub device: u64,
    /// Inode of the directory.
    pub inode: u64,
}

/// A cgroup: its directory, held open.
#[derive(Debug)]
pub struct Cgroup {
    fd: OwnedFd,
    path: PathBuf,
    /// Files that are read again and again; `None` for those that this kernel lacks.
    open: RefCell<BTreeMap<&'static str, Option<OwnedFd>>>,
}

impl Cgroup {
    /// Opens a cgroup by path. The last component is not followed if it is a link.
    ///
    /// # Errors
    ///
    /// If it is not there, or no directory.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let fd = openat(CWD, path, DIRECTORY, Mode::empty()).map_err(|errno| failure(path, "open", errno))?;
        Ok(Self {
            fd,
            path: path.to_owned(),
            open: RefCell::default(),
        })
    }

    /// Opens a cgroup below this one; each component of `relative` is opened from the one before, none is followed.
    ///
    /// # Errors
    ///
    /// If it is not there, or leads out of this cgroup.
    pub fn child(&self, relative: &str) -> Result<Self, Error> {
        let path = self.path.join(relative);
        let mut fd: Option<OwnedFd> = None;
        for part in relative.split('/').filter(|p| !p.is_empty()) {
            if matches!(part, "." | "..") {
                let cause = Cause::Text {
                    text: relative.to_owned(),
                    wanted: "a path below the cgroup",
                };
                return Err(Error { path, cause });
            }
            let from = fd.as_ref().unwrap_or(&self.fd);
            fd = Some(openat(from, part, DIRECTORY, Mode::empty()).map_err(|errno| failure(&path, "open", errno))?);
        }
        match fd {
            Some(fd) => Ok(Self {
                fd,
                path,
                open: RefCell::default(),
            }),
            None => Self::open(&path),
        }
    }

    /// Names of the cgroups right below, sorted.
    ///
    /// # Errors
    ///
    /// If the directory cannot be read.
    pub fn children(&self) -> Result<Vec<String>, Error> {
        let fail = |errno| failure(&self.path, "list", errno);
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.fd).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let name = entry.file_name().to_string_lossy();
            if entry.file_type() == FileType::Directory && name != "." && name != ".." {
                names.push(name.into_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    /// Where it was found.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Which cgroup it is.
    ///
    /// # Errors
    ///
    /// If the kernel does not say.
    pub fn identity(&self) -> Result<Identity, Error> {
        let stat = fstat(&self.fd).map_err(|errno| failure(&self.path, "stat", errno))?;
        #[allow(clippy::useless_conversion, reason = "the types differ between architectures")]
        Ok(Identity {
            device: stat.st_dev.into(),
            inode: stat.st_ino.into(),
        })
    }

    /// Links to the directory: two, and one for each cgroup right below. Less than two say that its filesystem does not count.
    ///
    /// # Errors
    ///
    /// If the kernel does not say.
    pub fn links(&self) -> Result<u64, Error> {
        let stat = fstat(&self.fd).map_err(|errno| failure(&self.path, "stat", errno))?;
        #[allow(clippy::useless_conversion, reason = "the types differ between architectures")]
        Ok(stat.st_nlink.into())
    }

    /// Whether the file is there, readable or not.
    pub fn has(&self, file: &str) -> bool {
        statat(&self.fd, file, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|s| FileType::from_raw_mode(s.st_mode).is_file())
    }

    /// The text of a file, without the newline at its end; `None` if this kernel or this cgroup does not have it.
    ///
    /// # Errors
    ///
    /// If it is there and cannot be read.
    pub fn read(&self, file: &str) -> Result<Option<String>, Error> {
        let path = || self.path.join(file);
        let fd = match openat(&self.fd, file, READ, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return self.absent(file),
            Err(errno) => return Err(failure(&path(), "open", errno)),
        };
        with_text(&fd, Shape::Any, path, |text| Ok(text.to_owned()))
    }

    /// Calls `take` with the text of a file of one record, which is kept open for the next time; `None` as for [`Cgroup::read`].
    pub(crate) fn read_again<T>(
        &self,
        file: &'static str,
        take: impl FnOnce(&str) -> Result<T, Error>,
    ) -> Result<Option<T>, Error> {
        self.read_in(file, Shape::Record, take)
    }

    /// The same of a file of any shape.
    pub(crate) fn read_in<T>(
        &self,
        file: &'static str,
        shape: Shape,
        take: impl FnOnce(&str) -> Result<T, Error>,
    ) -> Result<Option<T>, Error> {
        let path = || self.path.join(file);
        let mut open = self.open.borrow_mut();
        let known = match open.entry(file) {
            btree_map::Entry::Occupied(entry) => entry.into_mut(),
            btree_map::Entry::Vacant(entry) => {
                match openat(&self.fd, file, READ, Mode::empty()) {
                    Ok(fd) => entry.insert(Some(fd)),
                    Err(Errno::NOENT) => {
                        self.absent::<()>(file)?;
                        entry.insert(None)
                    }
                    // Not remembered: there may be file descriptors again next time.
                    Err(errno) => return Err(failure(&path(), "open", errno)),
                }
            }
        };
        known.as_ref().map_or(Ok(None), |fd| with_text(fd, shape, path, take))
    }

    /// A file that is missing is a kernel's lack only where the directory itself is still there.
    fn absent<T>(&self, file: &str) -> Result<Option<T>, Error> {
        match fstat(&self.fd) {
            Ok(stat) if stat.st_nlink == 0 => Err(failure(&self.path.join(file), "open", Errno::NODEV)),
            _ => Ok(None),
        }
    }

    /// Writes a file as a whole, in one write, as the kernel wants it.
    ///
    /// # Errors
    ///
    /// If it is not there, or the kernel refuses the value; the error names both.
    pub fn write(&self, file: &str, value: &str) -> Result<(), Error> {
        let path = self.path.join(file);
        let fd =
            openat(&self.fd, file, WRITE, Mode::empty()).map_err(|errno| failure(&path, "open to write", errno))?;
        let fail = |errno| failure(&path, &format!("write {value:?}"), errno);
        match write(&fd, value.as_bytes()) {
            Ok(n) if n == value.len() => Ok(()),
            Ok(_) => Err(fail(Errno::IO)),
            Err(errno) => Err(fail(errno)),
        }
    }

    pub(crate) fn open_file(&self, file: &str) -> Result<Option<OwnedFd>, Error> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        match openat(&self.fd, file, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(failure(&self.path.join(file), "open to read and write", errno)),
        }
    }

    pub(crate) fn wrong(&self, file: &str, text: &str, wanted: &'static str) -> Error {
        Error {
            path: self.path.join(file),
            cause: Cause::Text {
                text: text.to_owned(),
                wanted,
            },
        }
    }
}

pub(crate) fn failure(path: &Path, action: &str, errno: Errno) -> Error {
    Error {
        path: path.to_owned(),
        cause: Cause::Kernel {
            action: action.to_owned(),
            errno,
        },
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        reason = "tests"
    )]
    use super::*;

    #[test]
    fn a_missing_cgroup_is_an_error_with_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let error = Cgroup::open(&dir.path().join("nobody")).unwrap_err();
        assert!(error.is_gone());
        assert!(
            error
                .to_string()
                .ends_with("nobody: open: No such file or directory (os error 2)"),
            "{error}"
        );
    }

    #[test]
    fn links_and_dots_lead_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
        std::os::unix::fs::symlink("/proc", dir.path().join("a/link")).unwrap();
        std::os::unix::fs::symlink("/proc/uptime", dir.path().join("a/file")).unwrap();
        let root = Cgroup::open(dir.path()).unwrap();
        assert!(root.child("a/link").is_err());
        assert!(root.child("a/../a").is_err());
        let a = root.child("a").unwrap();
        assert!(a.read("file").is_err());
        assert_eq!(a.children().unwrap(), ["b"]);
    }

    #[test]
    fn a_held_cgroup_stays_itself_when_its_name_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("a")).unwrap();
        let root = Cgroup::open(dir.path()).unwrap();
        let before = root.child("a").unwrap();
        std::fs::rename(dir.path().join("a"), dir.path().join("old")).unwrap();
        std::fs::create_dir(dir.path().join("a")).unwrap();
        let after = root.child("a").unwrap();
        assert_ne!(before.identity().unwrap(), after.identity().unwrap());
    }

    #[test]
    fn a_removed_cgroup_is_gone_and_not_without_files() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("a")).unwrap();
        let a = Cgroup::open(&dir.path().join("a")).unwrap();
        assert_eq!(a.read("cpu.stat").unwrap(), None);
        std::fs::remove_dir(dir.path().join("a")).unwrap();
        assert!(a.read("cpu.stat").unwrap_err().is_gone());
    }

    #[test]
    fn a_value_that_is_written_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("cpu.idle"), "0\n").unwrap();
        let c = Cgroup::open(dir.path()).unwrap();
        c.write("cpu.idle", "1").unwrap();
        assert_eq!(c.read("cpu.idle").unwrap().as_deref(), Some("1"));
        let error = c.write("cpu.weight", "7").unwrap_err().to_string();
        assert!(error.contains("cpu.weight: open to write"), "{error}");
    }
}
