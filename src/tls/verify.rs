//! How a node's certificate is judged: as libpq does under require, verify-ca and verify-full. rustls calls it in the
//! handshake. Signatures of the handshake are always checked; only who signed the certificate is left open by `Anyone`.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

type Roots = (RootCertStore, Vec<CertificateDer<'static>>);

/// Whom to believe.
pub enum Trust {
    /// sslmode prefer and require: encryption without identity.
    Anyone,
    /// verify-ca.
    Chain(Roots),
    /// verify-full.
    ChainAndName(Roots),
}

#[derive(Debug)]
enum Names {
    Any,
    Checked,
}

#[derive(Debug)]
pub struct Verifier {
    /// `None`: anyone.
    chain: Option<Arc<WebPkiServerVerifier>>,
    /// The trusted certificates themselves: a node may use a self-signed one, which webpki takes for no server's.
    pinned: Vec<CertificateDer<'static>>,
    names: Names,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    pub fn new(trust: Trust, provider: &Arc<CryptoProvider>) -> Result<Verifier, String> {
        let algorithms = provider.signature_verification_algorithms;
        let (roots, names) = match trust {
            Trust::Anyone => return Ok(Verifier { chain: None, pinned: Vec::new(), names: Names::Any, algorithms }),
            Trust::Chain(roots) => (roots, Names::Any),
            Trust::ChainAndName(roots) => (roots, Names::Checked),
        };
        let (store, pinned) = roots;
        let chain = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider.clone())
            .build()
            .map_err(|error| error.to_string())?;
        Ok(Verifier { chain: Some(chain), pinned, names, algorithms })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        let judged = if self.pinned.iter().any(|pinned| pinned.as_ref() == end_entity.as_ref()) {
            let parsed = ParsedCertificate::try_from(end_entity)?;
            rustls::client::verify_server_name(&parsed, server_name).map(|()| ServerCertVerified::assertion())
        } else {
            chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
        };
        match (judged, &self.names) {
            // webpki looks at the name last, so the chain was good.
            (
                Err(Error::InvalidCertificate(
                    CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
                )),
                Names::Any,
            ) => Ok(ServerCertVerified::assertion()),
            (judged, _) => judged,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
