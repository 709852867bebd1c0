//! The syntax of names: DNS labels, label keys, image references. Sources: RFC 1123, Kubernetes'
//! `validation.go`, and the reference grammar of distribution.

/// What a DNS label is, for messages.
pub const DNS_LABEL: &str =
    "a DNS label: 1-63 of a-z, 0-9 and -, beginning and ending with a letter or digit";

/// What a DNS subdomain is, for messages.
pub const DNS_SUBDOMAIN: &str = "a DNS name: parts of a-z, 0-9 and -, joined by dots, at most 253 characters";

/// Whether `text` is a DNS label (RFC 1123).
#[must_use]
pub fn is_dns_label(text: &str) -> bool {
    text.len() <= 63 && part(text, |c| c.is_ascii_lowercase() || c.is_ascii_digit(), "-")
}

/// Whether `text` is a DNS subdomain (RFC 1123).
#[must_use]
pub fn is_dns_subdomain(text: &str) -> bool {
    text.len() <= 253
        && text.split('.').all(|label| part(label, |c| c.is_ascii_lowercase() || c.is_ascii_digit(), "-"))
}

/// Whether `text` is the value of a label: empty, or at most 63 letters, digits, `-`, `_` and `.`.
#[must_use]
pub fn is_label_value(text: &str) -> bool {
    text.is_empty() || text.len() <= 63 && part(text, |c| c.is_ascii_alphanumeric(), "-_.")
}

/// Whether `text` is the key of a label or annotation: `name` or `prefix.example/name`.
#[must_use]
pub fn is_label_key(text: &str) -> bool {
    let (prefix, name) = text.split_once('/').map_or((None, text), |(prefix, name)| (Some(prefix), name));
    prefix.is_none_or(is_dns_subdomain) && !name.is_empty() && is_label_value(name)
}

/// Whether `text` is a key of a ConfigMap or Secret.
#[must_use]
pub fn is_config_key(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    (1..=253).contains(&text.len()) && text.chars().all(allowed) && text != "." && !text.starts_with("..")
}

/// Whether `text` is the name of an environment variable: printable ASCII without `=`.
#[must_use]
pub fn is_env_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| (' '..='~').contains(&c) && c != '=')
}

/// Whether `text` is the name of a port (RFC 6335): at most 15 of a-z, 0-9 and single `-`, with a letter.
#[must_use]
pub fn is_port_name(text: &str) -> bool {
    text.len() <= 15
        && part(text, |c| c.is_ascii_lowercase() || c.is_ascii_digit(), "-")
        && text.contains(|c: char| c.is_ascii_lowercase())
        && !text.contains("--")
}

/// Whether `text` is an image reference: `[host[:port]/]repository[:tag][@digest]`.
#[must_use]
pub fn is_image(text: &str) -> bool {
    let (named, digest) = text.split_once('@').map_or((text, None), |(named, digest)| (named, Some(digest)));
    let slash = named.rfind('/').map_or(0, |at| at + 1);
    let (repository, tag) = match named[slash..].find(':') {
        Some(at) => (&named[..slash + at], Some(&named[slash + at + 1..])),
        None => (named, None),
    };
    let (host, path) = match repository.split_once('/') {
        Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => (Some(host), path),
        _ => (None, repository),
    };
    let is_path = |text: &str| part(text, |c| c.is_ascii_lowercase() || c.is_ascii_digit(), "-_.");
    let is_tag = |text: &str| {
        (1..=128).contains(&text.len())
            && !text.starts_with(['.', '-'])
            && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    let is_digest = |text: &str| {
        text.split_once(':').is_some_and(|(algorithm, hex)| {
            !algorithm.is_empty() && hex.len() >= 32 && hex.chars().all(|c| c.is_ascii_hexdigit())
        })
    };
    host.is_none_or(is_host)
        && path.split('/').all(is_path)
        && tag.is_none_or(is_tag)
        && digest.is_none_or(is_digest)
}

/// Whether `text` is a host name or address, with or without a port.
fn is_host(text: &str) -> bool {
    let (host, port) = text.rsplit_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
    port.is_none_or(|port| port.parse::<u16>().is_ok())
        && host.split('.').all(|label| part(label, |c| c.is_ascii_alphanumeric(), "-"))
}

/// Not empty, all of `inner` or `between`, with `inner` at both ends.
fn part(text: &str, inner: impl Fn(char) -> bool, between: &str) -> bool {
    text.starts_with(&inner)
        && text.ends_with(&inner)
        && text.chars().all(|c| inner(c) || between.contains(c))
}

#[cfg(test)]
mod tests {
    fn check(is: impl Fn(&str) -> bool, good: &[&str], bad: &[&str]) {
        for text in good {
            assert!(is(text), "{text:?} was refused");
        }
        for text in bad {
            assert!(!is(text), "{text:?} was taken");
        }
    }

    #[test]
    fn names() {
        let long = "a".repeat(64);
        check(super::is_dns_label, &["a", "shop-1"], &["", "-a", "a-", "A", "a.b", &long]);
        check(super::is_dns_subdomain, &["a", "a.b-c"], &["", "a..b", ".a", "A.b"]);
        check(super::is_label_key, &["app", "a.b/app_1", "A"], &["", "/a", "a/", "a/b/c", "a b", "-a"]);
        check(super::is_label_value, &["", "a_b", "1.2"], &["-a", "a b", &long]);
        check(super::is_config_key, &["page.html", ".env", "A-b_c"], &["", ".", "..", "a/b"]);
        check(super::is_env_name, &["A", "a.b-c"], &["", "A=B", "ä"]);
        check(super::is_port_name, &["http", "a1"], &["", "80", "Http", "a--b", "sixteen-letters-"]);
    }

    #[test]
    fn images() {
        let digest = format!("web@sha256:{}", "0".repeat(64));
        check(
            super::is_image,
            &[
                "web",
                "shop/web:1.4",
                "registry.example:5000/shop/web:v1",
                "localhost/web",
                "a__b/c-d",
                &digest,
            ],
            &[
                "",
                "Web",
                "web:",
                "web: 1",
                "web:1:2",
                "shop//web",
                "/web",
                "web@",
                "web@sha256:zz",
                "a b",
                "x:80/",
            ],
        );
    }
}
