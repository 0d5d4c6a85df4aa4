//! A conversation with the kernel about its network: a request, and what it answers to that.

use std::{os::fd::OwnedFd, time::Duration};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, netlink, recv, send, socket_with,
        sockopt::{Timeout, set_socket_timeout},
    },
};

use super::wire::{ACKNOWLEDGE, DUMP, Message, i32_at, messages};

/// Kinds of messages that end an answer.
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// What the kernel sends at once is no larger.
const BUFFER: usize = 64 << 10;
/// The kernel answers at once; a request that it does not answer must not stop the guards.
const PATIENCE: Duration = Duration::from_secs(1);

/// A socket of rtnetlink.
#[derive(Debug)]
pub(super) struct Socket {
    socket: OwnedFd,
    number: u32,
    buffer: Vec<u8>,
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
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
        Ok(Self {
            socket,
            number: 0,
            buffer: vec![0; BUFFER],
        })
    }

    /// Has something done.
    pub(super) fn order(
        &mut self,
        kind: u16,
        flags: u16,
        fixed: &[u8],
        with: impl FnOnce(Message) -> Message,
    ) -> Result<(), Errno> {
        self.talk(with(Message::new(kind, flags | ACKNOWLEDGE, fixed)), |_| {})
    }

    /// Asks for one thing. Each message of the answer is told to `take`, without its header.
    pub(super) fn ask(
        &mut self,
        kind: u16,
        fixed: &[u8],
        with: impl FnOnce(Message) -> Message,
        take: impl FnMut(&[u8]),
    ) -> Result<(), Errno> {
        self.talk(with(Message::new(kind, ACKNOWLEDGE, fixed)), take)
    }

    /// Asks for all that there is of a kind.
    pub(super) fn list(
        &mut self,
        kind: u16,
        fixed: &[u8],
        with: impl FnOnce(Message) -> Message,
        take: impl FnMut(&[u8]),
    ) -> Result<(), Errno> {
        self.talk(with(Message::new(kind, DUMP, fixed)), take)
    }

    /// Sends a request and takes in its answer up to the message that ends it. What answers an earlier request that was given
    /// up is passed over.
    fn talk(&mut self, message: Message, mut take: impl FnMut(&[u8])) -> Result<(), Errno> {
        self.number = self.number.wrapping_add(1);
        let message = message.finish(self.number);
        send(&self.socket, &message, SendFlags::empty())?;
        loop {
            // With the flag, the length is that of what came, not of what there was room for.
            let (_, length) = recv(&self.socket, self.buffer.as_mut_slice(), RecvFlags::TRUNC)?;
            let Some(bytes) = self.buffer.get(..length) else {
                return Err(Errno::MSGSIZE);
            };
            for message in messages(bytes).filter(|m| m.number == self.number) {
                match message.kind {
                    DONE => return outcome(message.body),
                    ERROR => return outcome(message.body),
                    _ => take(message.body),
                }
            }
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
