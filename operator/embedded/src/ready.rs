//! Asking the API server whether it is ready, without an HTTP client.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, pki_types::CertificateDer};

/// A question to one server, repeated until it says yes.
pub(crate) struct Probe {
    config: Arc<ClientConfig>,
    address: SocketAddr,
}

impl Probe {
    /// For the server on `port` of loopback, whose certificate `authority` (DER) has signed.
    pub(crate) fn new(port: u16, authority: Vec<u8>) -> Result<Probe, rustls::Error> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(authority))?;
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Probe {
            config: Arc::new(config),
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        })
    }

    /// Whether `GET /readyz` answers 200. Anybody may ask that, once the default access rules are there.
    pub(crate) fn ready(&self) -> Result<(), Box<dyn std::error::Error>> {
        let limit = Duration::from_secs(5);
        let socket = TcpStream::connect_timeout(&self.address, limit)?;
        socket.set_read_timeout(Some(limit))?;
        socket.set_write_timeout(Some(limit))?;
        let connection = ClientConnection::new(self.config.clone(), self.address.ip().into())?;
        let mut stream = StreamOwned::new(connection, socket);
        stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = [0_u8; 12];
        stream.read_exact(&mut answer)?;
        if answer == *b"HTTP/1.1 200" {
            return Ok(());
        }
        Err(format!("/readyz answers {}", String::from_utf8_lossy(&answer)).into())
    }
}
