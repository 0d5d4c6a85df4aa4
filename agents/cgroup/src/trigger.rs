//! Pressure triggers: the kernel wakes whoever polls the file when a stall passes a threshold.

use std::{
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    time::Duration,
};

use rustix::io::{Errno, write};

use crate::{
    dir::{Cgroup, failure},
    error::Error,
};

/// An armed trigger: poll it for `POLLPRI`. It is disarmed when dropped. `POLLERR` says that the cgroup is gone.
#[derive(Debug)]
pub struct Trigger {
    fd: OwnedFd,
}

impl Cgroup {
    /// Arms a trigger on `file` (`cpu.pressure`): wake when some task stalled for `stall` within any `window`. `None` if there is
    /// no pressure accounting here.
    ///
    /// # Errors
    ///
    /// If the kernel refuses: a window is 500 ms to 10 s, and without CAP_SYS_RESOURCE a multiple of 2 s (since 6.4).
    pub fn trigger(&self, file: &str, stall: Duration, window: Duration) -> Result<Option<Trigger>, Error> {
        let path = self.path().join(file);
        let Some(fd) = self.open_file(file)? else {
            return Ok(None);
        };
        // The kernel takes the text with a zero at its end.
        let text = format!("some {} {}\0", stall.as_micros(), window.as_micros());
        match write(&fd, text.as_bytes()) {
            Ok(_) => Ok(Some(Trigger { fd })),
            Err(Errno::OPNOTSUPP) => Ok(None),
            Err(errno) => Err(failure(&path, &format!("arm {:?}", text.trim_end_matches('\0')), errno)),
        }
    }
}

impl AsFd for Trigger {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Trigger {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
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
    fn a_trigger_is_armed_in_the_kernels_words() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("cpu.pressure"), "").unwrap();
        let c = Cgroup::open(dir.path()).unwrap();
        let armed = c
            .trigger("cpu.pressure", Duration::from_millis(150), Duration::from_secs(1))
            .unwrap();
        assert!(armed.is_some());
        assert_eq!(
            std::fs::read(dir.path().join("cpu.pressure")).unwrap(),
            b"some 150000 1000000\0"
        );
        assert!(
            c.trigger("io.pressure", Duration::from_millis(150), Duration::from_secs(1))
                .unwrap()
                .is_none()
        );
    }
}
