//! A conversation with the kernel about its network: a request, and what it answers to that.
//!
//! Nearly all of these requests wait for one lock of the kernel, which who sets up or tears down many links at once may hold for
//! seconds, and the wait is in the sending: no timeout of the socket ends it. A thread of its own talks to the kernel, so that the
//! agent goes on looking after everything else. A request that was given up is answered some time; until then a
//! look asks nothing more.

use std::{
    os::fd::OwnedFd,
    path::PathBuf,
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel},
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, netlink, recv, send, socket_with,
        sockopt::{Timeout, set_socket_timeout},
    },
};

use super::wire::{ACKNOWLEDGE, DUMP, INTERRUPTED, Message, i32_at, messages};

/// Kinds of messages that end an answer.
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// What the kernel sends at once is no larger.
const BUFFER: usize = 64 << 10;
/// What is set or put back waits so long for the kernel; so does the thread for an answer to what was sent.
const PATIENCE: Duration = Duration::from_secs(1);
/// A look waits so long, once for each time that the kernel is kept.
const GLANCE: Duration = Duration::from_millis(250);
/// A list in which something changed while it was made is asked for so many times at once.
const LISTS: u32 = 3;

/// A socket of rtnetlink, and the thread that talks over it.
#[derive(Debug)]
pub(super) struct Socket {
    requests: Sender<Request>,
    answers: Receiver<Answer>,
    number: u32,
    /// A request was given up, and its answer has not come yet.
    behind: bool,
    /// Whether who asks is a look: it has the last one to go by.
    glances: bool,
}

#[derive(Debug)]
struct Request {
    number: u32,
    what: What,
}

#[derive(Debug)]
enum What {
    /// A message to the kernel.
    Message(Vec<u8>),
    /// A file of a link, of which some wait for the same lock.
    File(PathBuf),
}

/// All that was received for one request.
#[derive(Debug)]
struct Answer {
    outcome: Result<(), Errno>,
    bytes: Vec<u8>,
}

impl Socket {
    pub(super) fn open() -> Result<Self, Errno> {
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            // Protocol 0 is that of routes, links and queues.
            None,
        )?;
        bind(&socket, &netlink::SocketAddrNetlink::new(0, 0))?;
        Self::over(socket)
    }

    /// Talks over a socket that is open.
    pub(super) fn over(socket: OwnedFd) -> Result<Self, Errno> {
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
        let (requests, theirs) = channel();
        let (tell, answers) = channel();
        std::thread::Builder::new()
            .name("netlink".to_owned())
            .stack_size(128 << 10)
            .spawn(move || work(&socket, &theirs, &tell))
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::AGAIN))?;
        Ok(Self {
            requests,
            answers,
            number: 0,
            behind: false,
            glances: false,
        })
    }

    /// Says whether a look asks from here on.
    pub(super) const fn glance(&mut self, glances: bool) {
        self.glances = glances;
    }

    /// Has something done.
    pub(super) fn order(
        &mut self,
        kind: u16,
        flags: u16,
        fixed: &[u8],
        with: impl FnOnce(Message) -> Message,
    ) -> Result<(), Errno> {
        self.talk(with(Message::new(kind, flags | ACKNOWLEDGE, fixed)))
            .map(drop)
    }

    /// Asks for one thing. Each message of the answer is told to `take`, without its header.
    pub(super) fn ask(
        &mut self,
        kind: u16,
        fixed: &[u8],
        with: impl FnOnce(Message) -> Message,
        take: impl FnMut(&[u8]),
    ) -> Result<(), Errno> {
        let answer = self.talk(with(Message::new(kind, ACKNOWLEDGE, fixed)))?;
        self.tell(&answer, take);
        Ok(())
    }

    /// Asks for all that there is of a kind: of one moment, or nothing of it is told.
    ///
    /// # Errors
    ///
    /// `EAGAIN` if something changed each time while the list was made.
    pub(super) fn list(
        &mut self,
        kind: u16,
        fixed: &[u8],
        with: impl Fn(Message) -> Message,
        take: impl FnMut(&[u8]),
    ) -> Result<(), Errno> {
        for _ in 0..LISTS {
            let answer = self.talk(with(Message::new(kind, DUMP, fixed)))?;
            let own = |flags: u16, number: u32| number == self.number && flags & INTERRUPTED != 0;
            if !messages(&answer).any(|m| own(m.flags, m.number)) {
                self.tell(&answer, take);
                return Ok(());
            }
        }
        Err(Errno::AGAIN)
    }

    /// Reads a file of sysfs.
    pub(super) fn read(&mut self, file: PathBuf) -> Result<String, Errno> {
        let bytes = self.have(|_| What::File(file))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn tell(&self, answer: &[u8], mut take: impl FnMut(&[u8])) {
        let own = messages(answer).filter(|m| m.number == self.number);
        for message in own.filter(|m| !matches!(m.kind, ERROR | DONE)) {
            take(message.body);
        }
    }

    /// Has a message sent, and waits for its answer.
    fn talk(&mut self, message: Message) -> Result<Vec<u8>, Errno> {
        self.have(|number| What::Message(message.finish(number)))
    }

    /// Has a request carried out, which is made for its number.
    fn have(&mut self, what: impl FnOnce(u32) -> What) -> Result<Vec<u8>, Errno> {
        let patience = if self.glances { GLANCE } else { PATIENCE };
        let end = Instant::now() + patience;
        if self.behind && self.glances {
            // It was waited for once already.
            match self.answers.try_recv() {
                Ok(_) => self.behind = false,
                Err(TryRecvError::Empty) => return Err(Errno::AGAIN),
                Err(TryRecvError::Disconnected) => return Err(Errno::PIPE),
            }
        } else if self.behind {
            self.wait(end)?;
            self.behind = false;
        }
        self.number = self.number.wrapping_add(1);
        let request = Request {
            number: self.number,
            what: what(self.number),
        };
        self.requests.send(request).map_err(|_| Errno::PIPE)?;
        self.behind = true;
        let answer = self.wait(end)?;
        self.behind = false;
        answer.outcome.map(|()| answer.bytes)
    }

    fn wait(&self, end: Instant) -> Result<Answer, Errno> {
        let left = end.saturating_duration_since(Instant::now());
        self.answers.recv_timeout(left).map_err(|error| match error {
            RecvTimeoutError::Timeout => Errno::AGAIN,
            RecvTimeoutError::Disconnected => Errno::PIPE,
        })
    }
}

/// Sends each request, and tells what is answered to it, until nobody has one more.
fn work(socket: &OwnedFd, requests: &Receiver<Request>, tell: &Sender<Answer>) {
    let mut buffer = vec![0; BUFFER];
    for Request { number, what } in requests {
        let mut bytes = Vec::new();
        let outcome = match what {
            What::Message(message) => converse(socket, number, &message, &mut buffer, &mut bytes),
            What::File(file) => match std::fs::read(file) {
                Ok(read) => {
                    bytes = read;
                    Ok(())
                }
                Err(error) => Err(Errno::from_io_error(&error).unwrap_or(Errno::IO)),
            },
        };
        if tell.send(Answer { outcome, bytes }).is_err() {
            return;
        }
    }
}

/// Sends a request and takes in its answer up to the message that ends it. What answers an earlier request that was given
/// up is passed over when it is read.
fn converse(
    socket: &OwnedFd,
    number: u32,
    request: &[u8],
    buffer: &mut [u8],
    answer: &mut Vec<u8>,
) -> Result<(), Errno> {
    send(socket, request, SendFlags::empty())?;
    loop {
        // With the flag, the length is that of what came, not of what there was room for.
        let (_, length) = recv(socket, &mut *buffer, RecvFlags::TRUNC)?;
        let Some(bytes) = buffer.get(..length) else {
            return Err(Errno::MSGSIZE);
        };
        answer.extend_from_slice(bytes);
        answer.resize(answer.len().next_multiple_of(4), 0);
        let ends = messages(bytes).find(|m| m.number == number && matches!(m.kind, ERROR | DONE));
        if let Some(end) = ends {
            return outcome(end.body);
        }
    }
}

/// What a message that ends an answer says: nothing, or an error, negative.
fn outcome(body: &[u8]) -> Result<(), Errno> {
    match i32_at(body, 0) {
        None | Some(0) => Ok(()),
        Some(error) => Err(Errno::from_raw_os_error(error.wrapping_neg())),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::{
        super::scripted::{self, Reply},
        *,
    };

    const KIND: u16 = 18;

    fn listed(socket: &mut Socket) -> Result<Vec<u8>, Errno> {
        let mut found = Vec::new();
        socket.list(KIND, &[0; 4], |m| m, |body| found.extend(body.first()))?;
        Ok(found)
    }

    /// Half of a list that changed while it was made was taken for all of it.
    #[test]
    fn a_list_in_which_something_changed_meanwhile_is_asked_for_again_and_given_up_where_that_goes_on() {
        for (interrupted, wanted) in [(0, Ok(vec![7, 8])), (2, Ok(vec![7, 8])), (3, Err(Errno::AGAIN))] {
            let mut asked = 0;
            let mut socket = scripted::kernel(move |_| {
                asked += 1;
                Reply::List {
                    bodies: if asked > interrupted {
                        vec![vec![7, 0, 0, 0], vec![8, 0, 0, 0]]
                    } else {
                        vec![vec![9, 0, 0, 0]]
                    },
                    interrupted: asked <= interrupted,
                }
            });
            assert_eq!(listed(&mut socket), wanted, "{interrupted}");
        }
    }

    /// A kernel that kept a request waiting kept the agent's one thread, and with it all guards.
    #[test]
    fn a_look_waits_once_for_a_kernel_that_is_kept_and_asks_again_when_that_is_over() {
        let (free, kept) = channel::<()>();
        let mut socket = scripted::kernel(move |_| {
            // Kept until this is sent, and never again.
            let _ = kept.recv();
            Reply::Done
        });
        socket.glance(true);
        let ask = |socket: &mut Socket| socket.ask(KIND, &[0; 4], |m| m, |_| {});
        assert_eq!(ask(&mut socket), Err(Errno::AGAIN));
        let number = socket.number;
        for _ in 0..1_000 {
            assert_eq!(ask(&mut socket), Err(Errno::AGAIN));
        }
        assert_eq!(socket.number, number, "nothing more is asked meanwhile");
        drop(free);
        socket.glance(false);
        while ask(&mut socket).is_err() {}
        assert!(!socket.behind);
    }

    #[test]
    fn an_error_of_the_kernels_is_the_answer() {
        let mut socket = scripted::kernel(|_| Reply::Error(Errno::OPNOTSUPP));
        assert_eq!(socket.order(36, 0, &[0; 4], |m| m), Err(Errno::OPNOTSUPP));
        assert_eq!(listed(&mut socket), Err(Errno::OPNOTSUPP));
    }
}
