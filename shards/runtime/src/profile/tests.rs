//! What a profile looks like as text and as a graph.

use super::{Counts, Profile, graph};

fn profile(stacks: &[(&[&str], u64)], lost: u64) -> Profile {
    let owned = |(names, count): &(&[&str], u64)| (names.iter().map(|name| (*name).to_owned()).collect(), *count);
    Profile { stacks: stacks.iter().map(owned).collect(), lost, title: "shard 0 <of one>".into() }
}

/// The boxes of the drawing by their titles, with place and width.
fn boxes(svg: &str) -> Vec<(String, f64, f64)> {
    let number = |text: &str, name: &str| -> f64 {
        let rest = &text[text.find(name).expect("has it") + name.len()..];
        rest[..rest.find('"').expect("ends")].parse().expect("a number")
    };
    let groups = svg.split("<g><title>").skip(1);
    groups
        .map(|group| {
            let (title, rest) = group.split_once("</title>").expect("has one");
            (title.to_owned(), number(rest, "<rect x=\""), number(rest, "width=\""))
        })
        .collect()
}

#[test]
fn stacks_are_lines_and_separators_within_names_are_not() {
    let profile = profile(&[(&["run", "<[u8; 4] as A>::b"], 3), (&["run"], 1)], 0);
    assert_eq!(profile.folded(), "run;<[u8, 4] as A>::b 3\nrun 1\n");
    assert_eq!((profile.samples(), profile.lost()), (4, 0));
}

#[test]
fn boxes_are_as_wide_as_their_share_and_lie_within_their_callers() {
    let profile = profile(&[(&["run", "a"], 1), (&["run", "a", "b<T>"], 2), (&["run", "c"], 1)], 7);
    let svg = profile.flame_graph();
    let boxes = boxes(&svg);
    let find = |name: &str| boxes.iter().find(|(title, ..)| title.starts_with(name)).expect("drawn");
    let (_, left, all) = find("all: 4 samples, 100.00%");
    assert_eq!(*left, graph::MARGIN);
    for (name, share, from) in
        [("run: 4", 1.0, 0.0), ("a: 3", 0.75, 0.0), ("b&lt;T&gt;: 2", 0.5, 0.0), ("c: 1", 0.25, 0.75)]
    {
        let (_, x, width) = find(name);
        assert!((width - all * share).abs() < 0.11 && (x - left - all * from).abs() < 0.11, "{name}: {x} {width}");
    }
    assert_eq!(boxes.len(), 5, "equal callers are one box");
    assert!(svg.contains("shard 0 &lt;of one&gt;") && svg.contains("4 samples; 7 more are missing"), "{svg}");
}

#[test]
fn a_profile_without_samples_is_a_drawing_too() {
    let empty = Counts::default().named("nothing".into());
    assert_eq!((empty.folded(), empty.samples()), (String::new(), 0));
    let svg = empty.flame_graph();
    assert!(svg.ends_with("</svg>\n") && boxes(&svg).is_empty());
}
