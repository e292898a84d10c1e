//! `ringpost limits`: every limit with its value, how often it was met, and how much of it is used.

use super::table::{Column, Side, draw};
use super::words::{plain, short_bytes, short_count};
use super::{print, print_json};
use crate::cli::ViewOptions;
use crate::client::Client;
use anyhow::Result;
use ringpost_admin::api::LimitView;

const LIMITS: &str = "/api/v1/limits";

pub(crate) fn limits(options: &ViewOptions) -> Result<()> {
    let client = Client::find(&options.server)?;
    if options.json {
        return print_json(&client, LIMITS);
    }
    print(&table(&client.get::<Vec<LimitView>>(LIMITS)?))
}

fn table(limits: &[LimitView]) -> String {
    let columns: [Column; 5] = [
        ("LIMIT", Side::Left),
        ("OF EACH", Side::Left),
        ("VALUE", Side::Right),
        ("MET", Side::Right),
        ("USED", Side::Right),
    ];
    let row = |limit: &LimitView| {
        vec![plain(&limit.key), plain(&limit.scope), plain(&limit.value), limit.met.to_string(), used(limit)]
    };
    draw(&columns, &limits.iter().map(row).collect::<Vec<_>>())
}

/// How much is used, where that is one number: with the share, if it is known of how much.
fn used(limit: &LimitView) -> String {
    let shown = if limit.value.ends_with('B') { short_bytes } else { short_count };
    match (limit.used, limit.of) {
        (Some(used), Some(of)) if of > 0 => {
            let share = u128::from(used) * 100 / u128::from(of);
            format!("{} of {} ({share}%)", shown(used), shown(of))
        }
        (Some(used), _) => shown(used),
        (None, _) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(key: &str, scope: &str, value: &str, met: u64, used: Option<(u64, u64)>) -> LimitView {
        LimitView {
            key: key.to_owned(),
            scope: scope.to_owned(),
            value: value.to_owned(),
            met,
            used: used.map(|(used, _)| used),
            of: used.map(|(_, of)| of),
        }
    }

    #[test]
    fn limits_as_a_table() {
        let limits = [
            limit("limits.connections_per_ip", "address", "20", 17, None),
            limit("limits.session_timeout", "session", "2h", 0, None),
            limit("cores.limits.message_memory", "core", "256MiB", 3, Some((134_217_728, 268_435_456))),
            limit("limits.odd", "core", "0", 0, Some((4, 0))),
        ];
        let expected = "\
LIMIT                        OF EACH   VALUE  MET                USED
limits.connections_per_ip    address      20   17
limits.session_timeout       session      2h    0
cores.limits.message_memory  core     256MiB    3  128M of 256M (50%)
limits.odd                   core          0    0                   4
";
        assert_eq!(table(&limits), expected);
    }
}
