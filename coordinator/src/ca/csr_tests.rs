//! Requests that ask for more than a certificate of their own, and such as are none; at enrolment and at renewal.

use super::*;

/// RSA of 1024 bits, as `openssl req -new -newkey rsa:1024 -outform DER` made it.
fn weak_rsa() -> Vec<u8> {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    BASE64_STANDARD.decode(WEAK_RSA).expect("base64")
}

const WEAK_RSA: &str = "MIIBTDCBtgIBADANMQswCQYDVQQDDAJuMTCBnzANBgkqhkiG9w0BAQEFAAOBjQAwgYkCgYEAyfPW3/qKnYuc5UTlZ5ZvA4j5o7xs\
    V3cWtw8e85NVO56TwyBhjtFmSkE+/kmgCLPuZ/uXTxQXyeuXS3iJLPlKHk8m0EU9C9kioWJ2+xHIvE+rsiNBp4F4u3V/8yNBn9Qb\
    uGpSWyMZfOD87nB4y88QV/RAKvevAWALbOhWKvEzARcCAwEAAaAAMA0GCSqGSIb3DQEBCwUAA4GBAGhrHJbcfmlUNK0EElBPNNLC\
    mq27WjYWF88M8kQyrFWcEFyn56qIDAKPk2Op0IS1qgLQh4+FZSyXmpeXgigKGqwlFU7poH98OAJhw/L1JS+UVYltqJ04m389HAvG\
    j9lMzlVJU4Lr7nytHsSQ7h30+X+qNw4e49FNHOuVJulQzn2p";

/// A request that asks for everything there is.
fn greedy(cluster: &str, key: &KeyPair) -> Vec<u8> {
    use rcgen::{BasicConstraints, DnType, ExtendedKeyUsagePurpose as Eku, IsCa, KeyUsagePurpose, SanType};
    let mut asks = CertificateParams::new(vec![
        proto::identity::coordinator_dns_name(cluster),
        "localhost".to_owned(),
    ])
    .expect("params");
    for uri in [
        format!("spiffe://{cluster}/agent/n2"),
        format!("spiffe://{cluster}/user/admin"),
    ] {
        asks.subject_alt_names
            .push(SanType::URI(uri.try_into().expect("ascii")));
    }
    asks.distinguished_name.push(DnType::CommonName, "root");
    asks.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    asks.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    asks.extended_key_usages = vec![
        Eku::Any,
        Eku::ServerAuth,
        Eku::ClientAuth,
        Eku::CodeSigning,
        Eku::OcspSigning,
    ];
    asks.serialize_request(key).expect("request").der().to_vec()
}

/// Every field of an agent's certificate, whatever its request asked for.
fn assert_plain(bed: &Bed, issued: &wire::Issued, node: &str, key: &KeyPair, now: u64) {
    use rcgen::PublicKeyData as _;
    use x509_parser::prelude::{FromDer as _, GeneralName, ParsedExtension, X509Certificate};
    let der = leaf(issued);
    let (rest, cert) = X509Certificate::from_der(&der).expect("certificate");
    assert!(rest.is_empty());
    assert_eq!(
        cert.public_key().raw,
        key.subject_public_key_info(),
        "the key of the request"
    );
    assert_eq!(cert.version().0, 2);
    let name: Vec<_> = cert
        .subject()
        .iter_common_name()
        .filter_map(|n| n.as_str().ok())
        .collect();
    assert_eq!(
        (name, cert.subject().iter_attributes().count()),
        (vec!["Wharfinger agent"], 1)
    );
    let issuer = CertificateDer::pem_slice_iter(issued.certificate_chain_pem.as_bytes()).nth(1);
    let issuer = issuer.expect("an intermediate").expect("PEM");
    let (_, issuer) = X509Certificate::from_der(&issuer).expect("certificate");
    assert_eq!(cert.issuer(), issuer.subject());
    cert.verify_signature(Some(issuer.public_key()))
        .expect("signed by the intermediate");
    assert_eq!(cert.validity().not_before.timestamp() as u64, now / 1000 - 300);
    assert_eq!(cert.validity().not_after.timestamp() as u64, (now + 72 * HOUR) / 1000);
    assert_eq!(issued.not_after, (now + 72 * HOUR) / 1000);
    let uri = format!("spiffe://{}/agent/{node}", bed.report.cluster);
    let mut seen = Vec::new();
    for extension in cert.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(san) => {
                assert_eq!(san.general_names, [GeneralName::URI(&uri)]);
                seen.push("names");
            }
            ParsedExtension::BasicConstraints(bc) => {
                assert_eq!((bc.ca, bc.path_len_constraint), (false, None));
                seen.push("constraints");
            }
            ParsedExtension::KeyUsage(usage) => {
                assert_eq!(usage.flags, 1, "digitalSignature alone: {usage}");
                seen.push("usage");
            }
            ParsedExtension::ExtendedKeyUsage(eku) => {
                let others = eku.any
                    || eku.server_auth
                    || eku.code_signing
                    || eku.email_protection
                    || eku.time_stamping
                    || eku.ocsp_signing
                    || !eku.other.is_empty();
                assert!(eku.client_auth && !others, "{eku:?}");
                seen.push("purpose");
            }
            ParsedExtension::AuthorityKeyIdentifier(_) | ParsedExtension::SubjectKeyIdentifier(_) => {}
            other => panic!("an extension that nobody wrote: {other:?}"),
        }
    }
    seen.sort_unstable();
    assert_eq!(seen, ["constraints", "names", "purpose", "usage"]);
}

#[tokio::test]
async fn of_a_greedy_request_only_the_key_counts_at_enrolment_and_at_renewal() {
    let bed = bed().await;
    let host = Host::new("n1");
    let (_, token) = bed.token(&spec(1)).await;
    let asks = wire::EnrolRequest {
        csr_der: greedy(&bed.report.cluster, &host.key),
        ..host.request(&token)
    };
    let issued = bed.ca.enrol(&asks).await.expect("joins").issued.expect("issued");
    assert_plain(&bed, &issued, "n1", &host.key, NOW);
    let caller = bed.ca.authenticate(&leaf(&issued)).await.expect("valid");
    assert_eq!(caller.to_string(), "agent/n1");
    bed.at(NOW + HOUR);
    let next = KeyPair::generate().expect("key");
    let renewed = bed
        .ca
        .renew(&caller, &greedy(&bed.report.cluster, &next))
        .await
        .expect("renews");
    assert_plain(&bed, &renewed, "n1", &next, NOW + HOUR);
}

#[tokio::test]
async fn bad_requests_are_invalid_arguments_at_enrolment_and_at_renewal() {
    let bed = bed().await;
    let issued = bed.joined(&Host::new("n1")).await;
    let caller = bed.ca.authenticate(&leaf(&issued)).await.expect("valid");
    let (id, token) = bed.token(&spec(1)).await;
    let host = Host::new("n2");
    let mut trailing = host.csr();
    trailing.push(0);
    let mut broken = host.csr();
    *broken.last_mut().expect("a byte") ^= 1;
    let ed25519 = KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("key");
    let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).expect("key");
    let of = |key: &KeyPair| {
        CertificateParams::default()
            .serialize_request(key)
            .expect("request")
            .der()
            .to_vec()
    };
    for (what, csr) in [
        ("nothing", Vec::new()),
        ("garbage", b"not a request".to_vec()),
        ("bytes after it", trailing),
        ("a wrong signature", broken),
        ("a key of another kind", of(&ed25519)),
        ("a key of another curve", of(&p384)),
        ("RSA of 1024 bits", weak_rsa()),
        ("a megabyte", vec![0x30; 1 << 20]),
    ] {
        let asks = wire::EnrolRequest {
            csr_der: csr.clone(),
            ..host.request(&token)
        };
        let at_enrolment = tonic::Status::from(bed.ca.enrol(&asks).await.expect_err(what));
        let at_renewal = bed.ca.renew(&caller, &csr).await.expect_err(what);
        for status in [at_enrolment, at_renewal] {
            assert_eq!(status.code(), Code::InvalidArgument, "{what}: {status}");
            assert!(status.message().starts_with("csr_der: "), "{what}: {status}");
            assert!(status.message().len() < 200, "{what}: {status}");
        }
    }
    assert_eq!((bed.used(&id).await, bed.keys("obj/node/").await.len()), (0, 1));
}
