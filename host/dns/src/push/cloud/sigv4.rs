//! Signatures of requests to Amazon's services (AWS IAM User Guide, "Create a signed AWS API request", Signature Version 4).

use aws_lc_rs::{digest, hmac};
use time::{OffsetDateTime, PrimitiveDateTime};

/// The name of the algorithm, which stands in what is signed.
const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// Who signs.
#[derive(Clone, Copy)]
pub(super) struct Signer<'a> {
    pub(super) id: &'a str,
    pub(super) region: &'a str,
    pub(super) secret: &'a str,
    pub(super) service: &'a str,
    /// Of temporary keys.
    pub(super) session: Option<&'a str>,
}

/// What is signed: the path and the query as they are sent, the query's fields in the order of their names.
#[derive(Clone, Copy)]
pub(super) struct Signed<'a> {
    pub(super) body: &'a str,
    pub(super) host: &'a str,
    pub(super) method: &'a str,
    pub(super) path: &'a str,
    pub(super) query: &'a str,
}

impl Signer<'_> {
    /// The fields that a request of this second is sent with, but for `host`.
    pub(super) fn sign(&self, signed: &Signed<'_>, now_s: u64) -> Vec<(&'static str, String)> {
        let at = stamp(now_s);
        let day = at.get(..8).unwrap_or_default();
        let mut fields = vec![("host", signed.host.to_owned()), ("x-amz-date", at.clone())];
        fields.extend(self.session.map(|session| ("x-amz-security-token", session.to_owned())));
        let names = fields.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
        let lines: String = fields.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        let Signed { body, method, path, query, .. } = signed;
        let canonical = format!("{method}\n{path}\n{query}\n{lines}\n{names}\n{}", hash(body));
        let scope = format!("{day}/{}/{}/aws4_request", self.region, self.service);
        let text = format!("{ALGORITHM}\n{at}\n{scope}\n{}", hash(&canonical));
        let first = format!("AWS4{}", self.secret);
        let key = [day, self.region, self.service, "aws4_request"]
            .iter()
            .fold(first.into_bytes(), |key, part| mac(&key, part));
        let signature = hex(&mac(&key, &text));
        let id = self.id;
        let told =
            format!("{ALGORITHM} Credential={id}/{scope}, SignedHeaders={names}, Signature={signature}");
        fields.retain(|(name, _)| *name != "host");
        fields.push(("authorization", told));
        fields
    }
}

/// A time as Amazon writes it: `20150830T123600Z`.
fn stamp(now_s: u64) -> String {
    let seconds = i64::try_from(now_s).unwrap_or(i64::MAX);
    let at = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(PrimitiveDateTime::MAX.assume_utc());
    let (year, month, day) = (at.year(), u8::from(at.month()), at.day());
    let (hour, minute, second) = (at.hour(), at.minute(), at.second());
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec()
}

fn hash(text: &str) -> String {
    hex(digest::digest(&digest::SHA256, text.as_bytes()).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cases of Amazon's own suite: `get-vanilla`, and one with a query.
    #[test]
    fn the_published_cases_come_out() {
        let signer = Signer {
            id: "AKIDEXAMPLE",
            region: "us-east-1",
            secret: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
            service: "service",
            session: None,
        };
        for (query, signature) in [
            ("", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
            (
                "Param1=value1&Param2=value2",
                "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
            ),
        ] {
            let signed = Signed { body: "", host: "example.amazonaws.com", method: "GET", path: "/", query };
            let fields = signer.sign(&signed, 1_440_938_160);
            assert_eq!(fields[0], ("x-amz-date", "20150830T123600Z".to_owned()));
            let expected = format!(
                "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, SignedHeaders=host;x-amz-date, \
                 Signature={signature}"
            );
            assert_eq!(fields[1], ("authorization", expected));
        }
        let session = Signer { session: Some("a/b+c="), ..signer };
        let signed = Signed { body: "", host: "example.amazonaws.com", method: "GET", path: "/", query: "" };
        let fields = session.sign(&signed, 1_440_938_160);
        assert_eq!(fields[1], ("x-amz-security-token", "a/b+c=".to_owned()));
        assert!(
            fields[2].1.contains("SignedHeaders=host;x-amz-date;x-amz-security-token,"),
            "{}",
            fields[2].1
        );
    }
}
