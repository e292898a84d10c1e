//! A profile as a flame graph: an SVG document of its own, without a script.
//!
//! Each box is a function, as wide as the share of samples that found it there, on top of the one that called it; boxes of
//! equal callers are one. What a box doesn't have room for is in its title, which a browser shows under the pointer.

use super::Profile;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Width of the drawing, in pixels. It scales with the window.
const WIDTH: f64 = 1600.0;
/// Height of a box.
const ROW: usize = 17;
/// Room above the boxes, for two lines of text.
const HEAD: usize = 48;
/// Room around them.
pub(super) const MARGIN: f64 = 8.0;
/// Boxes that are narrower are left out: nobody could point at them.
const NARROW: f64 = 0.2;
/// Width of a character of the font, about.
const CHARACTER: f64 = 6.6;

/// A function, called as those below it say.
#[derive(Default)]
struct Frame<'a> {
    count: u64,
    calls: BTreeMap<&'a str, Frame<'a>>,
}

impl<'a> Frame<'a> {
    fn add(&mut self, names: &'a [String], count: u64) {
        self.count += count;
        if let Some((name, rest)) = names.split_first() {
            self.calls.entry(name).or_default().add(rest, count);
        }
    }

    fn depth(&self) -> usize {
        self.calls.values().map(|frame| frame.depth() + 1).max().unwrap_or_default()
    }
}

/// Draws it.
pub(super) fn svg(profile: &Profile) -> String {
    let mut root = Frame::default();
    for (names, count) in &profile.stacks {
        root.add(names, *count);
    }
    let rows = root.depth() + 1;
    let height = HEAD + rows * ROW + ROW;
    let mut drawing = Drawing { text: String::new(), total: root.count, floor: HEAD + (rows - 1) * ROW };
    drawing.head(profile, height);
    if root.count > 0 {
        drawing.frame("all", &root, MARGIN, 0);
    }
    drawing.text.push_str("</svg>\n");
    drawing.text
}

struct Drawing {
    text: String,
    total: u64,
    /// Where the lowest row is.
    floor: usize,
}

impl Drawing {
    // Writing to a string doesn't fail, here and below.
    fn head(&mut self, profile: &Profile, height: usize) {
        let samples = profile.samples();
        let _ = write!(
            self.text,
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"100%\" \
             font-family=\"monospace\" font-size=\"11\">\n\
             <style>rect{{stroke:#fff;stroke-width:.5}} g:hover rect{{stroke:#000}} text{{pointer-events:none}}</style>\n\
             <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
             <text x=\"{MARGIN}\" y=\"18\" font-size=\"14\">{}</text>\n\
             <text x=\"{MARGIN}\" y=\"36\">{samples} samples; {} more are missing: between two ticks of the kernel's clock, \
             or without room</text>\n",
            escaped(&profile.title),
            profile.lost
        );
    }

    fn frame(&mut self, name: &str, frame: &Frame<'_>, left: f64, row: usize) {
        let width = frame.count as f64 / self.total as f64 * (WIDTH - 2.0 * MARGIN);
        if width < NARROW {
            return;
        }
        let share = frame.count as f64 * 100.0 / self.total as f64;
        let (count, top, name_escaped) = (frame.count, self.floor - row * ROW, escaped(name));
        let _ = write!(
            self.text,
            "<g><title>{name_escaped}: {count} samples, {share:.2}%</title>\
             <rect x=\"{left:.1}\" y=\"{top}\" width=\"{width:.1}\" height=\"{ROW}\" fill=\"{}\"/>",
            colour(name)
        );
        let label = label(name, ((width - 4.0) / CHARACTER) as usize);
        if !label.is_empty() {
            let _ = write!(self.text, "<text x=\"{:.1}\" y=\"{}\">{}</text>", left + 2.0, top + 12, escaped(&label));
        }
        self.text.push_str("</g>\n");
        let mut left = left;
        for (name, call) in &frame.calls {
            self.frame(name, call, left, row + 1);
            left += call.count as f64 / self.total as f64 * (WIDTH - 2.0 * MARGIN);
        }
    }
}

/// What of a name fits into a box: all, or its beginning.
fn label(name: &str, room: usize) -> String {
    match name.chars().count() {
        length if length <= room => name.to_owned(),
        _ if room < 3 => String::new(),
        _ => name.chars().take(room - 1).chain(['…']).collect(),
    }
}

/// Warm colours for ours, cool ones for what we use, the same for all functions of a crate.
fn colour(name: &str) -> String {
    let start = name.find(|c: char| c.is_ascii_alphanumeric()).unwrap_or_default();
    let word = &name[start..];
    let krate = &word[..word.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(word.len())];
    let hash = krate.bytes().fold(2_166_136_261u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(16_777_619));
    let hue = if krate.starts_with("ringpost") { hash % 50 } else { 80 + hash % 170 };
    format!("hsl({hue},70%,{}%)", 68 + hash / 256 % 10)
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            c if c.is_control() => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}
