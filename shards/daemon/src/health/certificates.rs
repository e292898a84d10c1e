//! Certificates that are about to end, or have.

use super::memory::{Finding, Trouble};
use crate::in_force::CertificateEnd;
use ringpost_admin::api::Moment;
use ringpost_base::{Span, Timestamp};
use std::time::Duration;

/// Certificates that are named in a reason; the number of the others is said.
const NAMED_MAX: usize = 3;

const HOUR: u64 = 3_600;
const DAY: u64 = 24 * HOUR;

/// When the first of them ends.
pub(super) fn first_end(certificates: &[CertificateEnd]) -> Option<Timestamp> {
    certificates.iter().map(|certificate| certificate.expires).min()
}

/// Those that end within `warning`, or have ended.
pub(super) fn certificate(certificates: &[CertificateEnd], warning: Span, now: Timestamp) -> Finding {
    let mut ending: Vec<&CertificateEnd> =
        certificates.iter().filter(|end| end.expires <= now.after(warning.0)).collect();
    ending.sort_by_key(|end| end.expires);
    let mut reasons: Vec<String> = ending.iter().take(NAMED_MAX).map(|end| ends(end, now)).collect();
    let more = ending.len().saturating_sub(NAMED_MAX);
    if more > 0 {
        reasons.push(format!("and {more} more"));
    }
    let trouble =
        (!reasons.is_empty()).then(|| Trouble::new(reasons.join("; "), "docs/runbooks/certificate-expiry.md"));
    Finding::new("certificate", trouble)
}

fn ends(CertificateEnd { file, expires }: &CertificateEnd, now: Timestamp) -> String {
    let at = Moment(*expires);
    if *expires <= now {
        return format!("{file} expired at {at:.0}");
    }
    format!("{file} expires in {}, at {at:.0}", roughly(expires.since(now)))
}

/// Days, or hours where it is less than two, or minutes: a reason that changes each second would be told each time.
fn roughly(left: Duration) -> String {
    let (count, unit) = match left.as_secs() {
        seconds if seconds >= 2 * DAY => (seconds / DAY, "days"),
        seconds if seconds >= 2 * HOUR => (seconds / HOUR, "hours"),
        seconds => (seconds / 60, "minutes"),
    };
    format!("{count} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_micros(1_795_179_600_000_000);

    fn certificates(days: &[i64]) -> Vec<CertificateEnd> {
        let end = |(number, days): (usize, &i64)| {
            let micros = NOW.unix_micros() as i64 + days * DAY as i64 * 1_000_000 + 1_000_000;
            CertificateEnd { file: format!("{number}.pem"), expires: Timestamp::from_unix_micros(micros as u64) }
        };
        days.iter().enumerate().map(end).collect()
    }

    #[track_caller]
    fn check(days: &[i64], warning: u64, want: Option<&str>) {
        let finding = certificate(&certificates(days), Span::seconds(warning * DAY), NOW);
        assert_eq!(finding.trouble.map(|trouble| trouble.reason).as_deref(), want);
    }

    #[test]
    fn certificates_are_told_in_time_the_first_to_end_first() {
        check(&[], 14, None);
        check(&[14, 90], 14, None);
        check(&[90, 13], 14, Some("1.pem expires in 13 days, at 2026-12-03T13:00:01Z"));
        check(&[1], 14, Some("0.pem expires in 24 hours, at 2026-11-21T13:00:01Z"));
        check(&[1, -1], 0, Some("1.pem expired at 2026-11-19T13:00:01Z"));
        check(
            &[5, 4, 3, 2, 1],
            3,
            Some(
                "4.pem expires in 24 hours, at 2026-11-21T13:00:01Z; 3.pem expires in 2 days, at 2026-11-22T13:00:01Z",
            ),
        );
        let many = certificate(&certificates(&[0; 9]), Span::seconds(DAY), NOW).trouble.map(|trouble| trouble.reason);
        assert!(many.is_some_and(|reason| reason.ends_with("; and 6 more")));
        assert_eq!(first_end(&certificates(&[3, 1, 2])), Some(certificates(&[1])[0].expires));
    }
}
