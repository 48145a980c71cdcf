//! What a person sees of the demo: a live view in a terminal, plain lines elsewhere. Everything goes to standard error, so
//! that standard output stays for the report.

use std::cell::RefCell;
use std::io::{Stderr, stderr};
use std::time::Instant;

use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Gauge, Paragraph, Row, Table};
use tokio_util::sync::CancellationToken;

use super::cluster::{Cluster, REGIONS, TENANTS};
use super::report::{Phase, Report, Tally, rate};

/// Where a person looks.
pub(crate) struct View {
    inner: RefCell<Inner>,
}

struct Inner {
    begun: Instant,
    hints: Vec<String>,
    phases: Vec<Phase>,
    plain_at: Instant,
    said: String,
    screen: Option<Terminal<CrosstermBackend<Stderr>>>,
    stop: CancellationToken,
    /// Requests and time at the last look, for the rate.
    seen: (u64, Instant),
}

impl View {
    /// Starts with a screen, if there is a terminal that gives one.
    pub(crate) fn start(terminal: bool, stop: CancellationToken) -> Self {
        let screen = terminal.then(open_screen).and_then(Result::ok);
        let now = Instant::now();
        let inner = Inner {
            begun: now,
            hints: Vec::new(),
            phases: Vec::new(),
            plain_at: now,
            said: String::new(),
            screen,
            stop,
            seen: (0, now),
        };
        Self { inner: RefCell::new(inner) }
    }

    /// Says what happens from here on.
    pub(crate) fn say(&self, text: &str) {
        let mut inner = self.inner.borrow_mut();
        text.clone_into(&mut inner.said);
        inner.seen = (0, Instant::now());
        if inner.screen.is_none() {
            eprintln!("{:5.1} s  {text}", inner.begun.elapsed().as_secs_f64());
        }
    }

    /// Says what comes to pass within a phase.
    pub(crate) fn tell(&self, text: &str) {
        let mut inner = self.inner.borrow_mut();
        if inner.screen.is_none() {
            eprintln!("         {text}");
        } else {
            text.clone_into(&mut inner.said);
        }
    }

    pub(crate) fn last_said(&self) -> String {
        self.inner.borrow().said.clone()
    }

    /// Tells how to try it by hand.
    pub(crate) fn introduce(&self, cluster: &Cluster) {
        let mut inner = self.inner.borrow_mut();
        for (region, address) in cluster.entries(REGIONS[0]) {
            let tenant = TENANTS[0];
            inner.hints.push(format!(
                "curl -is -H 'Host: {tenant}.demo.localhost' http://{address}/orders   # {region}"
            ));
        }
        inner.hints.push(format!("portolan status --config {}", cluster.config(REGIONS[0]).display()));
        if inner.screen.is_none() {
            inner.hints.iter().for_each(|hint| eprintln!("         {hint}"));
        }
    }

    /// Shows the running phase; `done` from 0 to 1.
    pub(crate) fn show(&self, tally: &Tally, name: &str, done: f64) {
        let mut inner = self.inner.borrow_mut();
        let now = Instant::now();
        let (before, at) = inner.seen;
        let per_second =
            rate(tally.requests.saturating_sub(before), now.duration_since(at).as_secs_f64().max(0.001));
        if inner.screen.is_some() {
            inner.draw(tally, name, done, per_second);
            if pressed_ctrl_c() {
                inner.stop.cancel();
            }
        } else if now.duration_since(inner.plain_at).as_secs() >= 1 {
            inner.plain_at = now;
            inner.seen = (tally.requests, now);
            let regions: Vec<String> =
                tally.regions.iter().map(|(region, count)| format!("{region} {count}")).collect();
            eprintln!(
                "         {per_second:>5} req/s  p50 {:>6.2} ms  p99 {:>6.2} ms  errors {}  {}",
                millis(tally.latency_us(0.5)),
                millis(tally.latency_us(0.99)),
                tally.failures,
                regions.join("  "),
            );
        }
    }

    /// A phase is over.
    pub(crate) fn finish(&self, phase: &Phase) {
        let mut inner = self.inner.borrow_mut();
        if inner.screen.is_none() {
            eprintln!("         {}", phase_line(phase));
        }
        inner.phases.push(phase.clone());
    }

    /// Gives the terminal back.
    pub(crate) fn end(self) {
        drop(self);
    }
}

impl Drop for View {
    fn drop(&mut self) {
        if let Some(mut screen) = self.inner.get_mut().screen.take() {
            // A terminal that is gone cannot be restored.
            crossterm::terminal::disable_raw_mode().ok();
            crossterm::execute!(screen.backend_mut(), crossterm::terminal::LeaveAlternateScreen).ok();
            screen.show_cursor().ok();
        }
    }
}

/// All phases for people.
pub(crate) fn summary(report: &Report) -> String {
    let mut text = String::new();
    for phase in &report.phases {
        text.push_str(&phase_line(phase));
        text.push('\n');
    }
    text.push_str(if report.ok { "every promise was kept" } else { "not every promise was kept" });
    text
}

fn phase_line(phase: &Phase) -> String {
    let mark = if phase.ok { "ok    " } else { "BROKEN" };
    let mut text = format!(
        "{mark} {:10} {:>6} requests, {} failed, p50 {:.2} ms, p99 {:.2} ms, {} retries, {} went to another region's address",
        phase.name,
        phase.requests,
        phase.failures,
        millis(phase.p50_us),
        millis(phase.p99_us),
        phase.retries,
        phase.reentries,
    );
    for (reason, count) in &phase.reasons {
        text.push_str(&format!("\n       {count}x {reason}"));
    }
    text
}

#[expect(clippy::cast_precision_loss, reason = "microseconds of a demo")]
fn millis(us: u64) -> f64 {
    us as f64 / 1_000.0
}

fn open_screen() -> std::io::Result<Terminal<CrosstermBackend<Stderr>>> {
    crossterm::terminal::enable_raw_mode()?;
    crossterm::execute!(stderr(), crossterm::terminal::EnterAlternateScreen)?;
    Terminal::new(CrosstermBackend::new(stderr()))
}

/// In raw mode the terminal sends Ctrl-C as a key, not as a signal.
fn pressed_ctrl_c() -> bool {
    use crossterm::event::{Event, KeyCode, KeyModifiers, poll, read};
    while poll(std::time::Duration::ZERO).unwrap_or(false) {
        let Ok(Event::Key(key)) = read() else { continue };
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        if key.code == KeyCode::Char('q') || (control && key.code == KeyCode::Char('c')) {
            return true;
        }
    }
    false
}

impl Inner {
    fn draw(&mut self, tally: &Tally, name: &str, done: f64, per_second: u64) {
        let Self { hints, phases, said, screen: Some(screen), .. } = self else { return };
        let errors = if tally.failures == 0 { Color::Green } else { Color::Red };
        let head = Line::from(vec![
            Span::styled(format!("{per_second:>6} req/s   "), Style::new().add_modifier(Modifier::BOLD)),
            Span::raw(format!(
                "p50 {:.2} ms   p99 {:.2} ms   ",
                millis(tally.latency_us(0.5)),
                millis(tally.latency_us(0.99))
            )),
            Span::styled(format!("errors {}", tally.failures), Style::new().fg(errors)),
        ]);
        let total: u64 = tally.regions.values().sum();
        let rows: Vec<Row<'_>> = REGIONS
            .iter()
            .map(|region| {
                let count = tally.regions.get(*region).copied().unwrap_or(0);
                let share = usize::try_from(count * 40 / total.max(1)).unwrap_or(0);
                Row::new([(*region).to_owned(), count.to_string(), "█".repeat(share)])
            })
            .collect();
        let finished: Vec<Line<'_>> = phases
            .iter()
            .map(|phase| {
                let color = if phase.ok { Color::Green } else { Color::Red };
                Line::styled(phase_line(phase), Style::new().fg(color))
            })
            .collect();
        let (hints, said): (Vec<Line<'_>>, &str) =
            (hints.iter().map(|hint| Line::raw(hint.as_str())).collect(), said);
        // A frame that cannot be drawn is followed by another.
        screen
            .draw(|frame| {
                let [title, gauge, regions, past, by_hand] = Layout::vertical([
                    Constraint::Length(4),
                    Constraint::Length(3),
                    Constraint::Length(5),
                    Constraint::Min(7),
                    Constraint::Length(6),
                ])
                .areas(frame.area());
                let intro = vec![Line::styled(said, Style::new().add_modifier(Modifier::BOLD)), head];
                frame.render_widget(
                    Paragraph::new(intro).block(Block::bordered().title(" portolan demo ")),
                    title,
                );
                let bar = Gauge::default()
                    .block(Block::bordered().title(format!(" {name} ")))
                    .ratio(done.clamp(0.0, 1.0));
                frame.render_widget(bar, gauge);
                let widths = [Constraint::Length(12), Constraint::Length(8), Constraint::Min(10)];
                let table = Table::new(rows, widths).block(Block::bordered().title(" answers by region "));
                frame.render_widget(table, regions);
                frame
                    .render_widget(Paragraph::new(finished).block(Block::bordered().title(" phases ")), past);
                let hand = Block::bordered().title(" try it by hand; Ctrl-C ends ");
                frame.render_widget(Paragraph::new(hints).block(hand), by_hand);
            })
            .ok();
        self.seen = (tally.requests, Instant::now());
    }
}
