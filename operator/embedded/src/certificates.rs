//! Keys and certificates of one control plane: made anew at each start, kept in its folder only.

use std::{
    fs,
    io::Write,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};

use crate::error::Error;

/// A certificate authority.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, as PEM.
pub(crate) struct Identity {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Result<Authority, Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        Ok(Authority(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?))
    }

    pub(crate) fn certificate(&self) -> String {
        self.0.pem()
    }

    pub(crate) fn certificate_der(&self) -> Vec<u8> {
        self.0.der().to_vec()
    }

    /// For a server, reached under `names` (DNS names or addresses). It may act as a client as well, as etcd's does.
    pub(crate) fn server(&self, names: &[String]) -> Result<Identity, Error> {
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name.push(DnType::CommonName, "duosuan-embedded");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params)
    }

    /// For a user of the API server, in one group.
    pub(crate) fn client(&self, user: &str, group: &str) -> Result<Identity, Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, user);
        params.distinguished_name.push(DnType::OrganizationName, group);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params)
    }

    fn sign(&self, mut params: CertificateParams) -> Result<Identity, Error> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.0)?.pem();
        Ok(Identity {
            certificate,
            key: key.serialize_pem(),
        })
    }
}

impl Identity {
    /// Writes NAME.crt and NAME.key.
    pub(crate) fn write(&self, dir: &Path, name: &str) -> Result<(), Error> {
        write_private(&dir.join(format!("{name}.crt")), &self.certificate)?;
        write_private(&dir.join(format!("{name}.key")), &self.key)
    }
}

/// Writes the key pair that signs service account tokens: sa.key and sa.pub.
pub(crate) fn write_service_account_keys(dir: &Path) -> Result<(), Error> {
    let key = KeyPair::generate()?;
    write_private(&dir.join("sa.key"), &key.serialize_pem())?;
    write_private(&dir.join("sa.pub"), &key.public_key_pem())
}

/// Writes a file that only this user can read, also while it is written, and also if it was there with other rights.
pub(crate) fn write_private(path: &Path, content: &str) -> Result<(), Error> {
    let place = || PathBuf::from(path);
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .map_err(Error::io("create", place()))?;
    file.set_permissions(fs::Permissions::from_mode(0o600))
        .map_err(Error::io("protect", place()))?;
    file.write_all(content.as_bytes()).map_err(Error::io("write", place()))
}
