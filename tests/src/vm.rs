//! Virtual machines with a real kernel, for tests of what only a real kernel does. They need no KVM: QEMU emulates.
//!
//! What boots is built by `tests/vm/build`; commands reach the guest over a virtio port, so that nothing listens on
//! a network. One machine at a time runs in a test binary: each takes both cores of a small host.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

const QEMU: &str = "qemu-system-x86_64";
const QEMU_PACKAGE: &str = "qemu-system-x86";
/// Ten times what a boot takes on an idle host.
const BOOT: Duration = Duration::from_secs(60);
/// No command of a test takes longer; a guest that does not answer is broken.
const COMMAND: Duration = Duration::from_secs(120);
/// Between two looks at the guest. A look costs it some milliseconds.
const LOOK: Duration = Duration::from_millis(200);
/// Bytes a second of the bare machine's disk.
const SCRATCH_SPEED: u32 = 20 << 20;
/// Lines of the guest's console that an error quotes.
const CONSOLE_TAIL: usize = 25;

/// What a machine boots into.
#[derive(Debug, Clone)]
pub enum Kind {
    /// Kernel, busybox, guest program and agent, and a disk of 256 MiB with nothing on it; up in four seconds.
    Bare,
    /// Guest program and agent under Debian's systemd, with a system bus; up in twenty seconds.
    Systemd,
    /// A Kubernetes node without its kubelet running yet: containerd, runc, CNI and the images of the tests.
    Node {
        /// The kubelet to put in, one static file.
        kubelet: PathBuf,
    },
}

impl Kind {
    fn name(&self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Systemd => "systemd",
            Self::Node { .. } => "node",
        }
    }

    fn memory(&self) -> &'static str {
        match self {
            Self::Bare => "512M",
            Self::Systemd => "768M",
            Self::Node { .. } => "3G",
        }
    }
}

/// What a command in the guest left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Exit status, as a shell has it in `$?`.
    pub status: i32,
    /// Standard output and standard error, as they came.
    pub text: String,
}

/// A running machine. Dropped, it is gone.
#[derive(Debug)]
pub struct Vm {
    channel: Mutex<UnixStream>,
    console: PathBuf,
    _qemu: Qemu,
    // Holds the socket; removed last.
    _sockets: tempfile::TempDir,
}

/// The emulator's process, ended when this is dropped, on a panic too.
#[derive(Debug)]
struct Qemu {
    kill: mpsc::Sender<()>,
    waiter: Option<thread::JoinHandle<()>>,
}

impl Vm {
    /// Builds what is not up to date, boots it and waits until it takes commands.
    pub fn boot(kind: &Kind) -> Result<Self> {
        Self::boot_with(kind, "")
    }

    /// The same with more on the kernel's command line, as to boot without some feature; what comes last holds.
    pub fn boot_with(kind: &Kind, kernel: &str) -> Result<Self> {
        build(kind)?;
        let files = target().join("vm").join(kind.name());
        let console = console(kind)?;
        let sockets = tempfile::Builder::new().prefix("duosuan-vm-").tempdir()?;
        let socket = sockets.path().join("commands");
        let listener = UnixListener::bind(&socket).context("cannot open a socket for the guest's commands")?;
        let qemu = Qemu::start(qemu(kind, kernel, &files, &console, &socket)?)?;
        let channel = accept(&listener, &qemu).and_then(|channel| {
            channel.set_read_timeout(Some(BOOT))?;
            // The first message answers no command: the guest is up.
            receive(&channel)?;
            channel.set_read_timeout(Some(COMMAND))?;
            Ok(channel)
        });
        let channel = channel.with_context(|| format!("the guest did not come up\n{}", tail(&console)))?;
        Ok(Self {
            channel: Mutex::new(channel),
            console,
            _qemu: qemu,
            _sockets: sockets,
        })
    }

    /// Runs one shell command in the guest and waits for it; what it starts in the background lives on.
    pub fn exec(&self, shell: &str) -> Result<Output> {
        let channel = self.channel.lock().unwrap_or_else(PoisonError::into_inner);
        send(&channel, shell)
            .and_then(|()| receive(&channel))
            .with_context(|| format!("the guest does not answer `{shell}`\n{}", tail(&self.console)))
    }

    /// Runs a command that has to succeed and returns its output without the last line end.
    pub fn run(&self, shell: &str) -> Result<String> {
        let output = self.exec(shell)?;
        if output.status != 0 {
            bail!(
                "`{shell}` in the guest ended with status {}: {}",
                output.status,
                output.text
            );
        }
        Ok(output.text.trim_end_matches('\n').to_owned())
    }

    /// Writes a file in the guest.
    pub fn write(&self, path: &str, text: &str) -> Result<()> {
        self.run(&format!("cat > {path} <<'END-OF-FILE'\n{text}\nEND-OF-FILE"))
            .map(drop)
    }

    /// Runs a command again and again until `seen` finds in its output what the test waits for.
    pub fn wait<T>(&self, what: &str, limit: Duration, shell: &str, seen: impl Fn(&str) -> Option<T>) -> Result<T> {
        let start = Instant::now();
        loop {
            let output = self.exec(shell)?;
            if let Some(found) = seen(&output.text) {
                return Ok(found);
            }
            if start.elapsed() > limit {
                bail!(
                    "{what}: not seen within {limit:?}; `{shell}` last said: {}",
                    output.text
                );
            }
            thread::sleep(LOOK);
        }
    }

    /// Every setting of a cgroup and of all below it, in a fixed order: a line `PATH VALUE` for each line of each file that
    /// can be written and read. Counters and processes are none.
    pub fn settings(&self, cgroup: &str) -> Result<String> {
        self.run(&format!(
            "cd /sys/fs/cgroup && find {cgroup} -type f -perm -600 ! -name 'cgroup.procs' ! -name 'cgroup.threads' \
             ! -name '*.pressure' | sort | while read -r file; do sed \"s|^|$file |\" \"$file\"; done"
        ))
    }

    /// Last lines that the guest's kernel and its first programs wrote.
    #[must_use]
    pub fn console_tail(&self) -> String {
        tail(&self.console)
    }
}

impl Qemu {
    /// Starts the emulator from a thread of its own, which then waits for it: the kernel ends the emulator with the
    /// thread that started it, and a test's own thread may end before the machine does.
    fn start(mut command: Command) -> Result<Self> {
        let (kill, killed) = mpsc::channel();
        let (started, start) = mpsc::channel();
        let waiter = thread::Builder::new().name("qemu".to_owned()).spawn(move || {
            let child = command.spawn();
            let failed = child
                .as_ref()
                .err()
                .map(|error| anyhow!("cannot start {QEMU}: {error}"));
            let _ = started.send(failed);
            if let Ok(child) = child {
                watch(child, &killed);
            }
        })?;
        match start.recv()? {
            None => Ok(Self {
                kill,
                waiter: Some(waiter),
            }),
            Some(error) => Err(error),
        }
    }

    fn runs(&self) -> bool {
        self.waiter.as_ref().is_some_and(|waiter| !waiter.is_finished())
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.kill.send(());
        if let Some(waiter) = self.waiter.take() {
            let _ = waiter.join();
        }
    }
}

/// Waits until the machine ends or is no longer wanted. Nobody left to want it counts as well.
fn watch(mut child: Child, killed: &mpsc::Receiver<()>) {
    while let Err(mpsc::RecvTimeoutError::Timeout) = killed.recv_timeout(LOOK) {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
    }
    let _ = child.kill();
    let _ = child.wait();
}

fn target() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target")
}

fn need(program: &str, package: &str) -> Result<()> {
    match Command::new(program).arg("--version").stdout(Stdio::null()).status() {
        Ok(_) => Ok(()),
        Err(_) => bail!("{program} is missing: install the Debian package {package} (all of them: tests/vm/packages)"),
    }
}

fn build(kind: &Kind) -> Result<()> {
    need(QEMU, QEMU_PACKAGE)?;
    let mut build = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("vm/build"));
    build.arg(kind.name());
    if let Kind::Node { kubelet } = kind {
        build.arg(kubelet);
    }
    let output = build
        .stdin(Stdio::null())
        .output()
        .context("cannot run tests/vm/build")?;
    if !output.status.success() {
        bail!(
            "tests/vm/build {}: {}",
            kind.name(),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}

/// A log that outlives the test, one per boot.
fn console(kind: &Kind) -> Result<PathBuf> {
    static BOOTS: AtomicU32 = AtomicU32::new(0);
    let folder = target().join("vm/console");
    fs::create_dir_all(&folder)?;
    let boot = BOOTS.fetch_add(1, Ordering::Relaxed);
    let console = folder.join(format!("{}-{}-{boot}.log", kind.name(), std::process::id()));
    File::create(&console)?;
    Ok(console)
}

fn qemu(kind: &Kind, kernel: &str, files: &Path, console: &Path, socket: &Path) -> Result<Command> {
    let disk = if matches!(kind, Kind::Node { .. }) {
        " root=/dev/vda"
    } else {
        ""
    };
    // Timers are fixed beforehand: measuring them under emulation takes seconds and may end in a slow clock.
    let append = format!(
        "console=ttyS0 quiet loglevel=4 panic=-1 psi=1 mitigations=off nokaslr tsc=reliable no_timer_check audit=0{disk} {kernel}"
    );
    // setpriv: a test that is killed cannot end its machine any more, the kernel does.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", QEMU]);
    command.args([
        "-accel",
        "tcg,thread=multi",
        "-machine",
        "q35,usb=off",
        "-cpu",
        "max",
        "-smp",
        "2",
    ]);
    command.args(["-m", kind.memory(), "-rtc", "base=utc,clock=host"]);
    command.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"]);
    command
        .arg("-chardev")
        .arg(format!("file,id=console,path={},append=on", console.display()));
    command.args(["-serial", "chardev:console"]);
    command.arg("-kernel").arg(files.join("vmlinuz"));
    command.arg("-initrd").arg(files.join("initrd"));
    command.arg("-append").arg(append);
    command
        .arg("-chardev")
        .arg(format!("socket,id=commands,path={}", socket.display()));
    command.args([
        "-device",
        "virtio-serial-pci",
        "-device",
        "virtserialport,chardev=commands,name=commands",
    ]);
    if matches!(kind, Kind::Bare) {
        // As slow as a disk: where nobody waits for it, nobody's stall can be tested.
        command.arg("-drive").arg(format!(
            "file={},format=raw,if=none,id=scratch,cache=unsafe,snapshot=on,throttling.bps-total={SCRATCH_SPEED}",
            files.join("scratch").display()
        ));
        command.args(["-device", "virtio-blk-pci,drive=scratch"]);
    }
    if matches!(kind, Kind::Node { .. }) {
        let image = files.join("root.ext4");
        command.arg("-drive").arg(format!(
            "file={},format=raw,if=none,id=root,cache=unsafe,snapshot=on",
            image.display()
        ));
        command.args(["-device", "virtio-blk-pci,drive=root"]);
        command.args([
            "-netdev",
            "user,id=net,ipv6=off",
            "-device",
            "virtio-net-pci,netdev=net",
        ]);
    }
    // QEMU's own complaints belong beside the guest's.
    let complaints = File::options().append(true).open(console)?;
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(complaints);
    Ok(command)
}

/// Waits for QEMU to connect; it does so before it starts the guest.
fn accept(listener: &UnixListener, qemu: &Qemu) -> Result<UnixStream> {
    listener.set_nonblocking(true)?;
    let start = Instant::now();
    loop {
        match listener.accept() {
            Ok((channel, _)) => {
                channel.set_nonblocking(false)?;
                return Ok(channel);
            }
            Err(_) if !qemu.runs() => bail!("{QEMU} ended at once"),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && start.elapsed() < BOOT => {
                thread::sleep(Duration::from_millis(20));
            }
            Err(error) => return Err(error).context("QEMU did not connect"),
        }
    }
}

fn send(mut channel: &UnixStream, shell: &str) -> Result<()> {
    let mut message = u32::try_from(shell.len())?.to_le_bytes().to_vec();
    message.extend_from_slice(shell.as_bytes());
    Ok(channel.write_all(&message)?)
}

fn receive(mut channel: &UnixStream) -> Result<Output> {
    let mut status = [0; 4];
    channel.read_exact(&mut status)?;
    let mut length = [0; 4];
    channel.read_exact(&mut length)?;
    let mut text = vec![0; usize::try_from(u32::from_le_bytes(length))?];
    channel.read_exact(&mut text)?;
    Ok(Output {
        status: i32::from_le_bytes(status),
        text: String::from_utf8_lossy(&text).into_owned(),
    })
}

fn tail(console: &Path) -> String {
    let text = fs::read(console)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(CONSOLE_TAIL);
    let last = lines.get(from..).unwrap_or_default().join("\n");
    format!("console ({}):\n{last}", console.display())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_missing_emulator_is_named_with_its_package() {
        assert_eq!(
            need("no-such-emulator", QEMU_PACKAGE).unwrap_err().to_string(),
            "no-such-emulator is missing: install the Debian package qemu-system-x86 (all of them: tests/vm/packages)"
        );
    }

    #[test]
    fn an_emulator_that_ends_at_once_is_no_minute_of_waiting() {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("commands")).unwrap();
        let qemu = Qemu::start(Command::new("false")).unwrap();
        assert_eq!(
            accept(&listener, &qemu).unwrap_err().to_string(),
            "qemu-system-x86_64 ended at once"
        );
    }
}
