//! Where the state is kept, and all that opening it takes. Part of the configuration: for `run`, and for the commands that
//! open a store without serving it.
//!
//! Invariant: what does not fit together is refused by the name of a setting, before anything is opened.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde::Deserialize;

use super::{Options, bad};
use crate::{
    ca,
    error::Error,
    store::etcd::{self, EtcdOptions, TlsFiles},
};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Backend {
    /// One file in the data directory; one coordinator.
    #[default]
    Sqlite,
    /// An etcd cluster that several coordinators share.
    Etcd,
}

/// Where the state is kept, with all that opening it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreConfig {
    Sqlite,
    Etcd(Box<EtcdOptions>),
}

/// The options of the etcd store, for the commands that open it without serving.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct StoreArgs {
    /// Where the state is kept [default: sqlite].
    #[arg(long, env = "WHARF_STORE", value_enum, value_name = "STORE")]
    pub store: Option<Backend>,
    #[command(flatten)]
    pub etcd: EtcdArgs,
}

/// How etcd is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct EtcdArgs {
    /// URLs of etcd's members, with commas between them.
    #[arg(long, env = "WHARF_ETCD_ENDPOINTS", value_name = "URL,URL,…")]
    pub etcd_endpoints: Option<String>,
    /// CA certificates, PEM, of etcd's members; with https only.
    #[arg(long, env = "WHARF_ETCD_CA", value_name = "FILE")]
    pub etcd_ca: Option<PathBuf>,
    /// Our certificate towards etcd, PEM.
    #[arg(long, env = "WHARF_ETCD_CERT", value_name = "FILE")]
    pub etcd_cert: Option<PathBuf>,
    /// Key of --etcd-cert, PEM.
    #[arg(long, env = "WHARF_ETCD_KEY", value_name = "FILE")]
    pub etcd_key: Option<PathBuf>,
    /// What all keys in etcd begin with [default: /wharfinger/].
    #[arg(long, env = "WHARF_ETCD_PREFIX", value_name = "PREFIX")]
    pub etcd_prefix: Option<String>,
}

impl StoreArgs {
    /// These, and what they leave out from the configuration file.
    pub(super) fn or(self, file: Options) -> Self {
        let etcd = self.etcd;
        Self {
            store: self.store.or(file.store),
            etcd: EtcdArgs {
                etcd_endpoints: etcd.etcd_endpoints.or(file.etcd_endpoints),
                etcd_ca: etcd.etcd_ca.or(file.etcd_ca),
                etcd_cert: etcd.etcd_cert.or(file.etcd_cert),
                etcd_key: etcd.etcd_key.or(file.etcd_key),
                etcd_prefix: etcd.etcd_prefix.or(file.etcd_prefix),
            },
        }
    }

    /// Checks them together.
    pub fn load(self) -> Result<StoreConfig, Error> {
        let Self { store, etcd: given } = self;
        if store.unwrap_or_default() == Backend::Sqlite {
            let given = [
                ("etcd-endpoints", given.etcd_endpoints.is_some()),
                ("etcd-ca", given.etcd_ca.is_some()),
                ("etcd-cert", given.etcd_cert.is_some()),
                ("etcd-key", given.etcd_key.is_some()),
                ("etcd-prefix", given.etcd_prefix.is_some()),
            ];
            return match given.iter().find(|(_, given)| *given) {
                Some((name, _)) => Err(bad(
                    name,
                    "is set and the store is sqlite: set store to etcd, or leave it out",
                )),
                None => Ok(StoreConfig::Sqlite),
            };
        }
        let urls = given.etcd_endpoints.unwrap_or_default();
        let endpoints: Vec<String> = urls
            .split(',')
            .map(|url| url.trim().trim_end_matches('/').to_owned())
            .filter(|url| !url.is_empty())
            .collect();
        if endpoints.is_empty() {
            return Err(bad(
                "etcd-endpoints",
                "is not set: name etcd's members as in https://10.0.0.1:2379,https://10.0.0.2:2379,https://10.0.0.3:2379",
            ));
        }
        let secure = endpoints.iter().filter(|url| url.starts_with("https://")).count();
        for (i, url) in endpoints.iter().enumerate() {
            let usable = url.parse::<http::Uri>().is_ok_and(|u| {
                matches!(u.scheme_str(), Some("http" | "https")) && u.port_u16().is_some() && u.path() == "/"
            });
            if !usable {
                return Err(bad(
                    "etcd-endpoints",
                    &format!("has {url:?}, not a URL as in https://10.0.0.1:2379"),
                ));
            }
            if endpoints[..i].contains(url) {
                return Err(bad("etcd-endpoints", &format!("names {url} twice")));
            }
        }
        if secure != 0 && secure != endpoints.len() {
            return Err(bad("etcd-endpoints", "has http and https: use https for all members"));
        }
        let tls = match (secure > 0, given.etcd_ca, given.etcd_cert, given.etcd_key) {
            (true, Some(ca), cert, key) => {
                let identity = match (cert, key) {
                    (Some(cert), Some(key)) => Some((cert, key)),
                    (None, None) => None,
                    (Some(_), None) => {
                        return Err(bad("etcd-key", "is not set and etcd-cert is: name the file of its key"));
                    }
                    (None, Some(_)) => {
                        return Err(bad(
                            "etcd-cert",
                            "is not set and etcd-key is: name the certificate's file",
                        ));
                    }
                };
                Some(TlsFiles { ca, identity })
            }
            (true, None, ..) => {
                return Err(bad(
                    "etcd-ca",
                    "is not set: name the file with the CA of etcd's certificates",
                ));
            }
            (false, None, None, None) => None,
            (false, ..) => {
                return Err(bad(
                    "etcd-endpoints",
                    "has http, and certificates are set: use https, or leave them out",
                ));
            }
        };
        let mut prefix = given.etcd_prefix.unwrap_or_else(|| etcd::PREFIX.to_owned());
        if !prefix.starts_with('/') || prefix.chars().any(char::is_whitespace) {
            return Err(bad(
                "etcd-prefix",
                &format!("is {prefix:?}: it begins with a slash and has no spaces"),
            ));
        }
        if !prefix.ends_with('/') {
            prefix.push('/');
        }
        Ok(StoreConfig::Etcd(Box::new(EtcdOptions {
            endpoints,
            tls,
            prefix,
            ..EtcdOptions::default()
        })))
    }
}

impl Backend {
    /// As the flag names it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sqlite => ca::replicas::STORE_OF_ONE,
            Self::Etcd => "etcd",
        }
    }
}
