//! Host ports, with the meaning that kube-scheduler gives them.

use std::sync::Arc;

const EVERY_ADDRESS: &str = "0.0.0.0";

/// A port of the host: `PROTOCOL/IP/PORT`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct HostPort {
    protocol_and_port: Arc<str>,
    address: Arc<str>,
}

impl HostPort {
    /// Reads `PROTOCOL/IP/PORT`; what is not of that form conflicts only with itself.
    pub(crate) fn parse(text: &str) -> HostPort {
        let mut parts = text.splitn(3, '/');
        match (parts.next(), parts.next(), parts.next()) {
            (Some(protocol), Some(address), Some(port)) => HostPort {
                protocol_and_port: format!("{protocol}/{port}").into(),
                address: if address.is_empty() {
                    EVERY_ADDRESS.into()
                } else {
                    address.into()
                },
            },
            _ => HostPort {
                protocol_and_port: text.into(),
                address: EVERY_ADDRESS.into(),
            },
        }
    }

    /// True if both cannot be on one host.
    pub(crate) fn conflicts(&self, other: &HostPort) -> bool {
        self.protocol_and_port == other.protocol_and_port
            && (self.address == other.address || &*self.address == EVERY_ADDRESS || &*other.address == EVERY_ADDRESS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_conflicts_with_each() {
        let any = HostPort::parse("TCP/0.0.0.0/80");
        let one = HostPort::parse("TCP/10.0.0.1/80");
        let two = HostPort::parse("TCP/10.0.0.2/80");
        assert!(any.conflicts(&one) && two.conflicts(&any) && one.conflicts(&one));
        assert!(!one.conflicts(&two));
        assert!(!any.conflicts(&HostPort::parse("UDP/0.0.0.0/80")));
    }
}
