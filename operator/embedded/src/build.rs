//! Building a tool: once per content of the module and version of Go.

use std::{
    collections::VecDeque,
    fmt,
    fs::{self, File},
    hash::{DefaultHasher, Hash, Hasher},
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::{Duration, SystemTime},
};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::{
    error::{Error, tail},
    go::{Go, Tool, linker_flags},
    instance::cache_dir,
};

/// Builds `tool`, or finds it built, and returns the binary. `progress` is told in words what goes on; it is not called
/// when the binary is there already. One build runs at a time on a machine's cache; others wait for it and use its result.
pub fn build(tool: Tool, progress: &mut dyn FnMut(&str)) -> Result<PathBuf, Error> {
    build_until(tool, &mut |step| progress(&step.to_string()), &AtomicBool::new(false))
}

/// What a build does at the moment. Its `Display` says it in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The step.
    pub words: String,
    /// Go packages compiled so far.
    pub done: usize,
    /// Go packages that there can be at most; those that Go's own cache holds are not compiled. 0 while it is unknown.
    pub total: usize,
}

impl Progress {
    fn words(words: impl Into<String>) -> Progress {
        Progress {
            words: words.into(),
            done: 0,
            total: 0,
        }
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)?;
        if self.total > 0 {
            write!(f, " ({} of at most {} packages)", self.done, self.total)
        } else {
            Ok(())
        }
    }
}

/// [`build`] that ends, with all that it started, soon after `stop` becomes true.
pub fn build_until(tool: Tool, progress: &mut dyn FnMut(Progress), stop: &AtomicBool) -> Result<PathBuf, Error> {
    let go = Go::find(std::env::var_os("PATH").as_deref(), tool)?;
    let dir = cache_dir().join(content_hash(tool, &go.version));
    let binary = dir.join(tool.name());
    if binary.is_file() {
        return Ok(binary);
    }
    fs::create_dir_all(&dir).map_err(Error::io("create", &dir))?;
    let _lock = lock(&dir.join("lock"), progress, stop)?;
    if binary.is_file() {
        return Ok(binary);
    }
    let source = dir.join("source");
    for (name, content) in tool.sources() {
        let file = source.join(name);
        let parent = file.parent().unwrap_or(&source);
        fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
        fs::write(&file, content).map_err(Error::io("write", &file))?;
    }
    progress(Progress::words(format!("looking up the packages of {}", tool.name())));
    let mut packages = 0_usize;
    let mut list = go.command(&source);
    list.args(["list", "-deps", tool.package()]);
    run(list, tool, &dir, stop, &mut |line| match line {
        Line::Out(_) => packages += 1,
        Line::Err(line) => progress(Progress::words(line)),
    })?;
    let partial = dir.join(format!("{}.partial", tool.name()));
    let mut compile = go.command(&source);
    compile.args([
        "build",
        "-v",
        "-trimpath",
        "-buildvcs=false",
        "-ldflags",
        &linker_flags(),
        "-o",
    ]);
    compile.arg(&partial).arg(tool.package());
    let mut compiled = 0_usize;
    progress(Progress {
        words: format!("compiling {}", tool.name()),
        done: 0,
        total: packages,
    });
    run(compile, tool, &dir, stop, &mut |line| {
        let (Line::Out(line) | Line::Err(line)) = line;
        if line.starts_with("go: ") {
            progress(Progress::words(line));
        } else {
            compiled += 1;
            progress(Progress {
                words: format!("compiling {line}"),
                done: compiled,
                total: packages,
            });
        }
    })?;
    fs::rename(&partial, &binary).map_err(Error::io("write", &binary))?;
    prune(&cache_dir(), &dir, SystemTime::now());
    Ok(binary)
}

/// Builds of other versions are removed when they are this old; Go's own cache makes them again in seconds.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);

/// Removes old builds (200 MB each) of other versions beside `current`, unless one is being built.
fn prune(cache: &Path, current: &Path, now: SystemTime) {
    for dir in fs::read_dir(cache)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
    {
        let lock = dir.join("lock");
        let built = dir.join("source/go.mod").is_file() && dir != current;
        let age = lock
            .metadata()
            .and_then(|file| file.modified())
            .ok()
            .and_then(|at| now.duration_since(at).ok());
        if built && age.is_some_and(|age| age > KEPT) && File::open(&lock).is_ok_and(|file| file.try_lock().is_ok()) {
            let _next_time = fs::remove_dir_all(&dir);
        }
    }
}

/// Name of the cache folder: changes with the files that the tool is made of, the flags and the version of Go.
fn content_hash(tool: Tool, go_version: &str) -> String {
    // Not cryptographic: it tells own versions apart, nobody else writes here. Its keys are fixed, so it is stable.
    let mut hasher = DefaultHasher::new();
    (tool.sources().collect::<Vec<_>>(), linker_flags(), go_version).hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

/// Waits for another process that builds in the same folder.
fn lock(path: &Path, progress: &mut dyn FnMut(Progress), stop: &AtomicBool) -> Result<File, Error> {
    let file = File::create(path).map_err(Error::io("create", path))?;
    let mut told = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(fs::TryLockError::Error(error)) => return Err(Error::io("lock", path)(error)),
            Err(fs::TryLockError::WouldBlock) if stop.load(Ordering::Relaxed) => return Err(Error::Stopped),
            Err(fs::TryLockError::WouldBlock) => {
                if !told {
                    progress(Progress::words("waiting for another process that builds the same"));
                    told = true;
                }
                std::thread::sleep(Duration::from_millis(200));
            }
        }
    }
}

/// A line of a command's output.
enum Line<'a> {
    Out(&'a str),
    Err(&'a str),
}

/// Runs `command` in a process group of its own, hands its lines to `each`, and ends the group when `stop` is set.
fn run(
    mut command: Command,
    tool: Tool,
    dir: &Path,
    stop: &AtomicBool,
    each: &mut dyn FnMut(Line<'_>),
) -> Result<(), Error> {
    let program = PathBuf::from(command.get_program());
    // Killed by the broken pipe at its next line if this process dies without cleaning up.
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    let mut child = command.spawn().map_err(Error::io("run", &program))?;
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let (sender, lines) = mpsc::channel();
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let err_sender = sender.clone();
    let readers = [
        std::thread::spawn(move || forward(out, &sender, true)),
        std::thread::spawn(move || forward(err, &err_sender, false)),
    ];
    let mut last: VecDeque<String> = VecDeque::new();
    loop {
        match lines.recv_timeout(Duration::from_millis(200)) {
            Ok((true, line)) => each(Line::Out(&line)),
            Ok((false, line)) => {
                each(Line::Err(&line));
                last.push_back(line);
                if last.len() > 40 {
                    last.pop_front();
                }
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {}
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
        }
        if stop.load(Ordering::Relaxed) {
            if let Some(group) = group {
                let _gone_already = kill_process_group(group, Signal::KILL);
            }
            let _status = child.wait();
            return Err(Error::Stopped);
        }
    }
    for reader in readers {
        let _panicked = reader.join();
    }
    let status = child.wait().map_err(Error::io("wait for", &program))?;
    if status.success() {
        return Ok(());
    }
    Err(explain(tool, dir, &Vec::from(last)))
}

/// Sends each line of `pipe`.
fn forward(pipe: Option<impl std::io::Read>, sender: &mpsc::Sender<(bool, String)>, out: bool) {
    for line in pipe
        .map(BufReader::new)
        .into_iter()
        .flat_map(|pipe| pipe.lines().map_while(Result::ok))
    {
        if sender.send((out, line)).is_err() {
            return;
        }
    }
}

/// Sorts a failure of `go` by what its last lines say.
fn explain(tool: Tool, dir: &Path, last: &[String]) -> Error {
    let text = last.join("\n");
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    if says(&["no space left on device"]) {
        return Error::DiskFull { path: dir.to_owned() };
    }
    let network = [
        "dial tcp",
        "no such host",
        "i/o timeout",
        "TLS handshake",
        "connection refused",
        "module lookup disabled",
        "502 Bad Gateway",
        "503 Service",
        "connection reset",
    ];
    // What the compiler said last tells more than the names of packages that -v prints in between.
    let words: Vec<&str> = last
        .iter()
        .map(String::as_str)
        .filter(|line| line.contains(' ') && !line.starts_with("go: downloading"))
        .collect();
    let tail = tail(
        &if words.is_empty() {
            text.clone()
        } else {
            words.join("\n")
        },
        4,
    );
    if says(&network) {
        return Error::Network {
            tool: tool.name(),
            tail,
        };
    }
    Error::Build {
        tool: tool.name(),
        tail,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_full_disk_a_broken_network_and_a_broken_source_read_differently() {
        let dir = Path::new("/cache");
        let full = lines("k8s.io/api\ncompile: writing output: write $WORK/b001/_pkg_.a: no space left on device");
        assert_eq!(
            explain(Tool::Kubectl, dir, &full).to_string(),
            "no space left on the disk of /cache: free about 4 GB and run again"
        );
        let offline = lines(
            "go: downloading k8s.io/api v0.37.2\ngo: k8s.io/api@v0.37.2: Get \"https://p/k8s.io\": dial tcp: lookup p: no such host",
        );
        let error = explain(Tool::Kubectl, dir, &offline).to_string();
        assert!(
            error.starts_with("cannot download the Go modules of kubectl: check the network"),
            "{error}"
        );
        let broken = lines("# duosuan.io/embedded/kubectl\nkubectl/main.go:8:2: undefined: cli");
        let error = explain(Tool::Kubectl, dir, &broken).to_string();
        assert_eq!(
            error,
            "go build of kubectl failed: # duosuan.io/embedded/kubectl | kubectl/main.go:8:2: undefined: cli"
        );
    }

    #[test]
    fn a_stopped_build_leaves_no_child_behind() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo $$ >&2; sleep 1000 & wait"]);
        let (stop, mut pid) = (AtomicBool::new(false), String::new());
        let result = run(command, Tool::Kubectl, Path::new("/"), &stop, &mut |line| {
            if let Line::Err(line) = line {
                pid = line.to_owned();
                stop.store(true, Ordering::Relaxed);
            }
        });
        assert!(matches!(result, Err(Error::Stopped)), "{result:?}");
        assert!(!Path::new("/proc").join(pid).exists());
    }

    #[test]
    fn builds_of_other_versions_are_removed_when_they_are_old() {
        let cache = tempfile::tempdir().unwrap();
        let dirs = ["current", "other", "building", "run"].map(|name| cache.path().join(name));
        for dir in &dirs {
            fs::create_dir_all(dir.join("source")).unwrap();
            fs::write(dir.join("lock"), "").unwrap();
            fs::write(dir.join("source/go.mod"), "").unwrap();
        }
        let [current, other, building, run] = &dirs;
        fs::remove_file(run.join("source/go.mod")).unwrap();
        let held = File::open(building.join("lock")).unwrap();
        held.lock().unwrap();
        prune(cache.path(), current, SystemTime::now());
        assert!(dirs.iter().all(|dir| dir.exists()), "all are young");
        prune(cache.path(), current, SystemTime::now() + KEPT * 2);
        assert_eq!(
            [current, other, building, run].map(|dir| dir.exists()),
            [true, false, true, true]
        );
    }

    #[test]
    fn the_hash_follows_the_version_of_go() {
        let hash = |version| content_hash(Tool::Kubectl, version);
        assert_eq!(hash("1.26.8"), hash("1.26.8"));
        assert_ne!(hash("1.26.8"), hash("1.26.9"));
    }
}
