//! One child process of the control plane.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use crate::error::{Error, tail};

/// Tells the Go `main` that standard input is the pipe that closes with this process.
const LIFELINE: &str = "CONTROLPLANE_LIFELINE";

/// A running component. Dropping it kills the process and waits for its end.
#[derive(Debug)]
pub(crate) struct Component {
    name: &'static str,
    log: PathBuf,
    child: Child,
}

impl Component {
    /// Starts `name` of the binary; its output goes to `dir/NAME.log`.
    pub(crate) fn start(binary: &Path, dir: &Path, name: &'static str, args: &[String]) -> Result<Component, Error> {
        let log = dir.join(format!("{name}.log"));
        let file = File::create(&log).map_err(Error::io("create", &log))?;
        let copy = file.try_clone().map_err(Error::io("create", &log))?;
        let mut command = Command::new(binary);
        command.arg(name).args(args).current_dir(dir).env(LIFELINE, "1");
        // kubeconfig and proxies of the user are not ours: the components talk to each other on loopback only.
        for variable in [
            "KUBECONFIG",
            "HTTP_PROXY",
            "HTTPS_PROXY",
            "ALL_PROXY",
            "http_proxy",
            "https_proxy",
            "all_proxy",
        ] {
            command.env_remove(variable);
        }
        // A process group of its own: Ctrl-C at the terminal reaches the parent only, which then ends things in order.
        command.stdin(Stdio::piped()).stdout(file).stderr(copy).process_group(0);
        let child = command.spawn().map_err(Error::io("run", binary))?;
        Ok(Component { name, log, child })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// An error if the process has ended.
    pub(crate) fn check(&mut self) -> Result<(), Error> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(self.failed(format!("ended with {status}"))),
            Err(error) => Err(self.failed(format!("cannot be watched: {error}"))),
        }
    }

    /// An error about this component with the end of its log.
    pub(crate) fn failed(&self, what: String) -> Error {
        Error::Component {
            component: self.name,
            what,
            log: self.log.clone(),
            tail: tail(&self.log_end(), 5),
        }
    }

    /// Whether its log says that a port was taken.
    pub(crate) fn lost_a_port(&self) -> bool {
        self.log_end().contains("address already in use")
    }

    /// The last 64 KiB of the log.
    fn log_end(&self) -> String {
        let read = || -> std::io::Result<Vec<u8>> {
            let mut file = File::open(&self.log)?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(64 * 1024)))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
    }
}

impl Drop for Component {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _reaped = self.child.wait();
    }
}
