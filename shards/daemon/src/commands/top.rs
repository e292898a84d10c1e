//! `ringpost top`: the cores at work, live.
//!
//! A frame is made of two readings of the counts, by functions of them alone. On a terminal it fills the screen and takes
//! keys; elsewhere, or if frames are counted, they are printed one after the other. A server that doesn't answer for a
//! while, as during an upgrade, is told of and asked again.

mod frame;
mod terminal;
mod view;

use super::shards::SHARDS;
use super::status::STATUS;
use super::{now, print_to_reader};
use crate::cli::TopOptions;
use crate::client::Client;
use anyhow::Result;
use frame::{Frame, Reading};
use ringpost_runtime::faults;
use std::time::{Duration, Instant};
use terminal::{Event, Terminal};
use view::{Pressed, View};

/// How long an answer is waited for: who watches would rather see that none comes.
const PATIENCE: Duration = Duration::from_secs(2);

pub(crate) fn top(options: &TopOptions) -> Result<()> {
    let client = Client::find(&options.server)?.with_patience(PATIENCE);
    let view = View::new(options.interval.0);
    let count = if options.once { Some(1) } else { options.count };
    if count.is_none() && terminal::is_there() {
        return live(&client, view);
    }
    plain(&client, &view, count)
}

fn read(client: &Client) -> Result<Reading> {
    Ok(Reading { status: client.get(STATUS)?, shards: client.get(SHARDS)?, read: Instant::now(), at: now().into() })
}

/// Prints so many frames, or frames until nobody reads them.
fn plain(client: &Client, view: &View, count: Option<u32>) -> Result<()> {
    let mut before = read(client)?;
    for number in 0.. {
        if count.is_some_and(|count| number >= count) {
            break;
        }
        std::thread::sleep(view.interval());
        let reading = read(client)?;
        let gap = if number > 0 { "\n" } else { "" };
        let frame = Frame { before: Some(&before), reading: &reading, view, trouble: None };
        if !print_to_reader(&format!("{gap}{}", frame.plain()))? {
            break;
        }
        before = reading;
    }
    Ok(())
}

/// Fills the terminal until `q`, or until a signal ends it.
fn live(client: &Client, mut view: View) -> Result<()> {
    let mut reading = read(client)?;
    let mut before = None;
    let mut trouble: Option<String> = None;
    let terminal = Terminal::enter()?;
    let mut due = Instant::now() + view.interval();
    let signal = loop {
        let frame = Frame { before: before.as_ref(), reading: &reading, view: &view, trouble: trouble.as_deref() };
        terminal.draw(&frame.live(terminal.size()))?;
        let patience = (!view.paused()).then(|| due.saturating_duration_since(Instant::now()));
        match terminal.wait(patience)? {
            Event::Key(_) if faults::is_injected("top.panic", "key") => panic!("a fault on purpose"),
            Event::Key(key) => match view.press(&key) {
                Pressed::Quit => break None,
                Pressed::Suspend => terminal.suspend()?,
                Pressed::Changed => due = Instant::now() + view.interval(),
                Pressed::Nothing => {}
            },
            Event::Redraw => {}
            Event::Suspend => terminal.suspend()?,
            Event::End(signal) => break Some(signal),
            Event::Hangup => break None,
            Event::Time => {
                due = Instant::now() + view.interval();
                match read(client) {
                    Ok(read) => {
                        before = Some(std::mem::replace(&mut reading, read));
                        trouble = None;
                    }
                    Err(error) => trouble = Some(format!("{error:#}")),
                }
            }
        }
    };
    drop(terminal);
    // Whoever sent it sees that this process died of it.
    signal.map_or(Ok(()), |signal| Ok(signal_hook::low_level::emulate_default_handler(signal)?))
}
