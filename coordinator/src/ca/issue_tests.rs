//! What of a request reaches a certificate, and what is refused.

use proptest::prelude::*;
use rcgen::{CertificateSigningRequest, PKCS_ED25519};
use x509_parser::prelude::{GeneralName, ParsedExtension, X509Certificate};

use super::*;

const CLUSTER: &str = "0f8fad5b-d9cb-469f-a165-70867728950e";
const NOW: u64 = 1_800_000_000_500;
const HOUR: u64 = 3600 * 1000;

fn issuer() -> Issuer {
    let root = new_root(CLUSTER, NOW).expect("root");
    let intermediate = new_intermediate(&root, "c1", NOW).expect("intermediate");
    let chain = format!("{}{}", intermediate.pem, root.pem);
    Issuer::new(CLUSTER, &chain, &intermediate.key.serialize_pem()).expect("issuer")
}

fn request(params: CertificateParams) -> CertificateSigningRequest {
    let key = KeyPair::generate().expect("key");
    params.serialize_request(&key).expect("request")
}

fn extensions(cert: &X509Certificate<'_>) -> (bool, Vec<String>, Vec<&'static str>) {
    let (mut ca, mut names, mut usages) = (false, Vec::new(), Vec::new());
    for extension in cert.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::BasicConstraints(bc) => ca = bc.ca,
            ParsedExtension::SubjectAlternativeName(san) => {
                names.extend(san.general_names.iter().map(|name| match name {
                    GeneralName::URI(uri) => (*uri).to_owned(),
                    GeneralName::DNSName(dns) => (*dns).to_owned(),
                    other => format!("{other:?}"),
                }));
            }
            ParsedExtension::ExtendedKeyUsage(eku) => {
                for (set, name) in [
                    (eku.any, "any"),
                    (eku.server_auth, "server"),
                    (eku.client_auth, "client"),
                ] {
                    usages.extend(set.then_some(name));
                }
            }
            _ => {}
        }
    }
    (ca, names, usages)
}

#[test]
fn of_a_greedy_request_only_the_key_is_taken() {
    let mut greedy = CertificateParams::new(vec!["coordinator.x.wharfinger.internal".to_owned()]).expect("params");
    greedy.subject_alt_names.push(SanType::URI(
        format!("spiffe://{CLUSTER}/user/admin").try_into().expect("ascii"),
    ));
    greedy.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    greedy.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::Any,
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::CodeSigning,
    ];
    let csr = request(greedy);
    let key = parse_csr(csr.der()).expect("parses");
    let leaf = issuer().issue(&key, Role::Agent, "n1", 72 * HOUR, NOW).expect("leaf");
    let (rest, cert) = X509Certificate::from_der(&leaf.der).expect("certificate");
    assert!(rest.is_empty());
    let uri = format!("spiffe://{CLUSTER}/agent/n1");
    assert_eq!(extensions(&cert), (false, vec![uri], vec!["client"]));
    assert_eq!(cert.validity().not_before.timestamp() as u64, NOW / 1000 - 300);
    assert_eq!(cert.validity().not_after.timestamp() as u64, leaf.not_after);
    assert_eq!(leaf.not_after, (NOW + 72 * HOUR).div_ceil(1000));
    assert_eq!(
        proto::identity::serial_of_certificate(&leaf.der).expect("serial"),
        leaf.serial
    );
    assert_eq!(leaf.serial.len(), 32);
}

#[test]
fn a_coordinator_is_server_and_client() {
    let key = KeyPair::generate().expect("key");
    let leaf = issuer()
        .issue_for(&key, Role::Coordinator, "c1", HOUR, NOW)
        .expect("leaf");
    let (_, cert) = X509Certificate::from_der(&leaf.der).expect("certificate");
    let names = vec![
        format!("spiffe://{CLUSTER}/coordinator/c1"),
        format!("coordinator.{CLUSTER}.wharfinger.internal"),
    ];
    assert_eq!(extensions(&cert), (false, names, vec!["server", "client"]));
}

#[test]
fn serials_differ_and_renewal_is_spread_around_a_third() {
    let issuer = issuer();
    let key = KeyPair::generate().expect("key");
    let leaves: Vec<Leaf> = (0..50)
        .map(|_| issuer.issue_for(&key, Role::Agent, "n1", 72 * HOUR, NOW).expect("leaf"))
        .collect();
    let serials: std::collections::BTreeSet<_> = leaves.iter().map(|l| &l.serial).collect();
    assert_eq!(serials.len(), 50);
    let after: Vec<u64> = leaves.iter().map(|l| l.renew_after - NOW / 1000).collect();
    let (low, high) = (24 * 3600 * 9 / 10, 24 * 3600 * 11 / 10);
    assert!(after.iter().all(|s| (low..=high).contains(s)), "{after:?}");
    let distinct: std::collections::BTreeSet<_> = after.iter().collect();
    assert!(distinct.len() > 10, "no spread: {after:?}");
}

#[test]
fn a_leaf_never_outlives_its_issuer() {
    let key = KeyPair::generate().expect("key");
    let issuer = issuer();
    let leaf = issuer.issue_for(&key, Role::User, "a", u64::MAX, NOW).expect("leaf");
    let (_, until) = validity_of_certificate(&issuer.intermediate).expect("validity");
    assert_eq!(leaf.not_after, until);
}

#[test]
fn an_intermediate_with_another_key_is_refused() {
    let root = new_root(CLUSTER, NOW).expect("root");
    let intermediate = new_intermediate(&root, "c1", NOW).expect("intermediate");
    let chain = format!("{}{}", intermediate.pem, root.pem);
    let other = KeyPair::generate().expect("key").serialize_pem();
    assert!(Issuer::new(CLUSTER, &chain, &other).is_err());
    assert!(Issuer::new(CLUSTER, &intermediate.pem, &intermediate.key.serialize_pem()).is_err());
}

#[test]
fn bad_requests_are_named() {
    let good = request(CertificateParams::default()).der().to_vec();
    assert!(parse_csr(&good).is_ok());
    let with = |change: fn(&mut Vec<u8>)| {
        let mut der = good.clone();
        change(&mut der);
        parse_csr(&der).expect_err("refused")
    };
    assert!(matches!(with(|d| d.push(0)), CsrError::Malformed("bytes follow it")));
    assert!(matches!(
        with(|d| d.resize(9000, 0)),
        CsrError::Malformed("it is too long")
    ));
    assert!(matches!(with(|d| d.truncate(40)), CsrError::Malformed(_)));
    assert!(matches!(with(Vec::clear), CsrError::Malformed(_)));
    // The last byte belongs to the signature.
    let last = with(|d| *d.last_mut().expect("a byte") ^= 1);
    assert_eq!(last, CsrError::Signature);
    let key = KeyPair::generate_for(&PKCS_ED25519).expect("key");
    let other = CertificateParams::default().serialize_request(&key).expect("request");
    assert_eq!(parse_csr(other.der()).expect_err("refused"), CsrError::Algorithm);
}

proptest! {
    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300), at in 0usize..300, byte: u8) {
        let _ = parse_csr(&bytes);
        let mut der = request(CertificateParams::default()).der().to_vec();
        if let Some(slot) = der.get_mut(at) {
            *slot = byte;
        }
        let _ = parse_csr(&der);
        let _ = super::super::certs::Caller::of_certificate(&bytes);
    }
}
