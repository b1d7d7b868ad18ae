//! HTTP as far as downloads need it: GET with a range, redirects that never lead from HTTPS to plain HTTP, and a limit on silence.

use std::cell::OnceCell;
use std::env;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use ureq::http::{HeaderMap, Uri, header};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Proxy};

/// The most redirects that are followed.
const REDIRECTS: usize = 10;
/// Where distributions keep the certificates that they trust: Debian, Fedora, openSUSE.
const CERTIFICATES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem"];

/// Why something cannot be fetched.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Not an address that can be fetched.
    #[error("`{0}` is no address that can be fetched: it starts with https:// or http://")]
    Address(String),
    /// The server has no such thing.
    #[error("the server does not have {url} (HTTP status {status})")]
    Absent {
        /// What was asked for.
        url: String,
        /// 404 or 410.
        status: u16,
    },
    /// The server refuses or is broken.
    #[error("the server does not give {url} (HTTP status {status})")]
    Status {
        /// What was asked for.
        url: String,
        /// The answer.
        status: u16,
    },
    /// A redirect from an encrypted connection to a plain one.
    #[error("{from} leads on to {to}, which is not encrypted: refused")]
    Downgrade {
        /// What was asked for.
        from: String,
        /// Where it leads.
        to: String,
    },
    /// A redirect that leads nowhere.
    #[error("{0} leads on and on, or to no address")]
    Redirects(String),
    /// Nothing came for too long.
    #[error("{url}: nothing came from the server for {} s", limit.as_secs_f32())]
    Silent {
        /// What was asked for.
        url: String,
        /// For how long.
        limit: Duration,
    },
    /// The connection failed.
    #[error("cannot fetch {url}")]
    Failed {
        /// What was asked for.
        url: String,
        /// Why.
        source: ureq::Error,
    },
    /// The connection ended too early.
    #[error("{url}: the connection ended too early")]
    Broken {
        /// What was asked for.
        url: String,
        /// How.
        source: io::Error,
    },
    /// More than there should be.
    #[error("{url} is larger than any such file ({limit} bytes)")]
    TooLarge {
        /// What was asked for.
        url: String,
        /// The limit.
        limit: u64,
    },
}

/// Fetches.
#[derive(Debug)]
pub(super) struct Fetcher {
    limit: Duration,
    roots: OnceCell<RootCerts>,
}

/// The part of a file that is wanted.
#[derive(Debug, Clone, Copy)]
pub(super) struct From<'a> {
    /// Its first byte.
    pub(super) offset: u64,
    /// Only if the file is still the one that had this mark; else all of it (RFC 9110, 13.1.5).
    pub(super) mark: Option<&'a str>,
}

/// A server's answer, with the file's content still to come.
pub(super) struct Answer {
    url: String,
    limit: Duration,
    /// 200, 206 or 416.
    pub(super) status: u16,
    headers: HeaderMap,
    body: Box<dyn Read>,
}

impl Fetcher {
    /// One that waits so long for a server that is silent.
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, roots: OnceCell::new() }
    }

    /// Asks for a file, or the rest of one.
    pub(super) fn get(&self, url: &str, from: Option<From<'_>>) -> Result<Answer, HttpError> {
        let mut url = url.to_owned();
        let mut encrypted = false;
        for _ in 0..REDIRECTS {
            let uri: Uri = url.parse().map_err(|_| HttpError::Address(url.clone()))?;
            match uri.scheme_str() {
                Some("https") => encrypted = true,
                Some("http") => {}
                _ => return Err(HttpError::Address(url)),
            }
            let response = self.ask(&uri, from).map_err(|source| self.failed(&url, source))?;
            let status = response.status().as_u16();
            match status {
                200 | 206 | 416 => {
                    let (parts, body) = response.into_parts();
                    let body = Box::new(body.into_reader());
                    return Ok(Answer { url, limit: self.limit, status, headers: parts.headers, body });
                }
                301 | 302 | 303 | 307 | 308 => {
                    let target =
                        response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
                    let Some(target) = target.and_then(|target| join(&uri, target)) else {
                        return Err(HttpError::Redirects(url));
                    };
                    if encrypted && !target.starts_with("https://") {
                        return Err(HttpError::Downgrade { from: url, to: target });
                    }
                    url = target;
                }
                404 | 410 => return Err(HttpError::Absent { url, status }),
                status => return Err(HttpError::Status { url, status }),
            }
        }
        Err(HttpError::Redirects(url))
    }

    /// A text of at most `limit` bytes.
    pub(super) fn text(&self, url: &str, limit: u64) -> Result<String, HttpError> {
        let mut answer = self.get(url, None)?;
        let mut bytes = Vec::new();
        let mut buffer = [0; 16 << 10];
        loop {
            match answer.read(&mut buffer)? {
                0 => return Ok(String::from_utf8_lossy(&bytes).into_owned()),
                read => bytes.extend_from_slice(&buffer[..read]),
            }
            if bytes.len() as u64 > limit {
                return Err(HttpError::TooLarge { url: url.to_owned(), limit });
            }
        }
    }

    fn ask(
        &self,
        uri: &Uri,
        from: Option<From<'_>>,
    ) -> Result<ureq::http::Response<ureq::Body>, ureq::Error> {
        let mut request = self.agent(uri).get(uri);
        if let Some(from) = from {
            request = request.header(header::RANGE, format!("bytes={}-", from.offset));
            if let Some(mark) = from.mark {
                request = request.header(header::IF_RANGE, mark);
            }
        }
        request.call()
    }

    fn agent(&self, uri: &Uri) -> Agent {
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("midge/", env!("CARGO_PKG_VERSION")))
            .proxy(proxy(uri))
            .timeout_resolve(Some(self.limit))
            .timeout_connect(Some(self.limit))
            .timeout_recv_response(Some(self.limit))
            .timeout_per_read(Some(self.limit))
            .timeout_per_write(Some(self.limit));
        if uri.scheme_str() == Some("https") {
            let roots = self.roots.get_or_init(roots).clone();
            config = config.tls_config(TlsConfig::builder().root_certs(roots).build());
        }
        config.build().new_agent()
    }

    fn failed(&self, url: &str, source: ureq::Error) -> HttpError {
        let url = url.to_owned();
        match source {
            ureq::Error::Timeout(_) => HttpError::Silent { url, limit: self.limit },
            source => HttpError::Failed { url, source },
        }
    }
}

impl Answer {
    /// The next bytes of the content; 0 at its end.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, HttpError> {
        self.body.read(buffer).map_err(|source| {
            let url = self.url.clone();
            let silent = source.kind() == io::ErrorKind::TimedOut
                || matches!(source.get_ref().and_then(|e| e.downcast_ref()), Some(ureq::Error::Timeout(_)));
            if silent {
                HttpError::Silent { url, limit: self.limit }
            } else {
                HttpError::Broken { url, source }
            }
        })
    }

    /// The content's size, where the server tells.
    pub(super) fn length(&self) -> Option<u64> {
        self.header(header::CONTENT_LENGTH)?.parse().ok()
    }

    /// Of a part: its first byte. Of what is not there (416): the size of the whole, as the second.
    pub(super) fn range(&self) -> (Option<u64>, Option<u64>) {
        // RFC 9110, 14.4: "bytes 42-1233/1234", "bytes */1234".
        let Some(range) = self.header(header::CONTENT_RANGE).and_then(|text| text.strip_prefix("bytes "))
        else {
            return (None, None);
        };
        let (part, whole) = range.split_once('/').unwrap_or((range, "*"));
        (part.split('-').next().and_then(|first| first.trim().parse().ok()), whole.trim().parse().ok())
    }

    /// The mark by which the server knows the file again: a strong entity tag, else its date (RFC 9110, 13.1.5).
    pub(super) fn mark(&self) -> Option<String> {
        let tag = self.header(header::ETAG).filter(|tag| tag.starts_with('"'));
        tag.or_else(|| self.header(header::LAST_MODIFIED)).map(str::to_owned)
    }

    fn header(&self, name: header::HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// The proxy for an address: `https_proxy` or `http_proxy` by its scheme, else `all_proxy`, in either case, as curl(1) has it, unless
/// `no_proxy` lists the host.
fn proxy(uri: &Uri) -> Option<Proxy> {
    // The library knows `no_proxy`, but takes the first of all the other variables, whatever the scheme.
    if Proxy::try_from_env().is_some_and(|proxy| proxy.is_no_proxy(uri)) {
        return None;
    }
    let scheme = uri.scheme_str()?;
    let names = [format!("{scheme}_proxy"), "all_proxy".to_owned()];
    let names = names.iter().flat_map(|name| [name.clone(), name.to_uppercase()]);
    let mut values = names.filter_map(|name| env::var(name).ok()).filter(|value| !value.is_empty());
    values.next().and_then(|value| Proxy::new(&value).ok())
}

/// The certificates that servers are trusted by: `SSL_CERT_FILE`, as OpenSSL has it, else the system's, else Mozilla's, which are a part
/// of the program.
fn roots() -> RootCerts {
    let named = env::var_os("SSL_CERT_FILE").map(Into::into);
    let places = named.into_iter().chain(CERTIFICATES.map(std::path::PathBuf::from));
    for place in places {
        let Ok(text) = std::fs::read(&place) else { continue };
        let certificates: Vec<_> = parse_pem(&text)
            .filter_map(|item| match item {
                Ok(PemItem::Certificate(certificate)) => Some(certificate),
                _ => None,
            })
            .collect();
        if !certificates.is_empty() {
            return RootCerts::Specific(Arc::new(certificates));
        }
    }
    RootCerts::WebPki
}

/// Where a redirect leads that was answered for `base` (RFC 3986, 5.2), without dots resolved: servers do that.
fn join(base: &Uri, target: &str) -> Option<String> {
    let (scheme, authority) = (base.scheme_str()?, base.authority()?);
    Some(if target.contains("://") {
        target.to_owned()
    } else if let Some(rest) = target.strip_prefix("//") {
        format!("{scheme}://{rest}")
    } else if target.starts_with('/') {
        format!("{scheme}://{authority}{target}")
    } else if target.is_empty() {
        return None;
    } else {
        let folder = base.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        format!("{scheme}://{authority}{folder}/{target}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_are_joined_to_where_they_come_from() {
        let base: Uri = "https://a.example:8443/x/y?z".parse().unwrap();
        let to = |target| join(&base, target);
        assert_eq!(to("http://b.example/").as_deref(), Some("http://b.example/"));
        assert_eq!(to("//b.example/c").as_deref(), Some("https://b.example/c"));
        assert_eq!(to("/c?d").as_deref(), Some("https://a.example:8443/c?d"));
        assert_eq!(to("c").as_deref(), Some("https://a.example:8443/x/c"));
        assert_eq!(to(""), None);
    }
}
