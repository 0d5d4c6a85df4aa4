//! A kernel that answers by a script, at the other end of a socket.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use rustix::{
    io::Errno,
    net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair},
};

use super::{
    socket::Socket,
    wire::{HEADER, u16_at, u32_at},
};

/// What is answered to a request.
#[derive(Debug)]
pub(super) enum Reply {
    /// It is done.
    Done,
    Error(Errno),
    /// One thing.
    One(Vec<u8>),
    /// All that there is of a kind, without headers.
    List {
        bodies: Vec<Vec<u8>>,
        interrupted: bool,
    },
}

/// A request: its kind, and what follows its header.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) kind: u16,
    pub(super) list: bool,
    pub(super) body: Vec<u8>,
}

/// The way to a kernel that answers so.
pub(super) fn kernel(mut answer: impl FnMut(Asked) -> Reply + Send + 'static) -> Socket {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    std::thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        while let Ok((length, _)) = recv(&theirs, &mut buffer[..], RecvFlags::empty()) {
            if length == 0 {
                return;
            }
            let request = &buffer[..length];
            let number = u32_at(request, 8).unwrap();
            let asked = Asked {
                kind: u16_at(request, 4).unwrap(),
                list: u16_at(request, 6).unwrap() & 0x300 == 0x300,
                body: request[HEADER..].to_vec(),
            };
            let kind = asked.kind;
            let end =
                |error: Option<Errno>| message(2, 0, number, &(-error.map_or(0, Errno::raw_os_error)).to_ne_bytes());
            let all = match answer(asked) {
                Reply::Done => end(None),
                Reply::Error(error) => end(Some(error)),
                Reply::One(body) => [message(kind, 0, number, &body), end(None)].concat(),
                Reply::List { bodies, interrupted } => {
                    let flags = 2 | if interrupted { 0x10 } else { 0 };
                    let mut all: Vec<u8> = bodies
                        .iter()
                        .flat_map(|body| message(kind, flags, number, body))
                        .collect();
                    all.extend(message(3, flags, number, &[0; 4]));
                    all
                }
            };
            if send(&theirs, &all, SendFlags::empty()).is_err() {
                return;
            }
        }
    });
    Socket::over(ours).unwrap()
}

fn message(kind: u16, flags: u16, number: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(HEADER + body.len()).unwrap().to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(number.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend(body);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}
