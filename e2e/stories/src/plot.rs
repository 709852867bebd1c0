//! A small plot as SVG: some lines over two logarithmic axes, text as text.
//!
//! In: points. Out: the picture. Pure, and the same for the same points, so that it can be checked in.

use std::fmt::Write as _;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 400.0;
/// Room for labels: left, top, right, bottom.
const LEFT: f64 = 72.0;
const TOP: f64 = 48.0;
const RIGHT: f64 = 24.0;
const BOTTOM: f64 = 56.0;
/// Of the lines, in order: told apart by people who see no red or green, too.
const COLOURS: [&str; 4] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7"];

/// What is drawn.
#[derive(Clone, Debug, Default)]
pub struct Plot {
    /// Above it.
    pub title: String,
    /// Below the horizontal axis, with the unit.
    pub across: String,
    /// Beside the vertical axis, with the unit.
    pub up: String,
    /// Name and points of each line, all positive, in the order of their first coordinate.
    pub lines: Vec<(String, Vec<(f64, f64)>)>,
}

/// Whole decades that hold some values.
#[derive(Clone, Copy)]
struct Axis {
    from: i32,
    to: i32,
}

impl Axis {
    fn over(values: impl Iterator<Item = f64>) -> Self {
        let logs: Vec<f64> = values.filter(|value| *value > 0.0).map(f64::log10).collect();
        let least = logs.iter().copied().fold(f64::INFINITY, f64::min);
        let most = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if least > most {
            return Self { from: 0, to: 1 };
        }
        // Six digits are more than a page shows; a value on a decade opens no further one.
        let (from, to) = ((least + 1e-6).floor() as i32, (most - 1e-6).ceil() as i32);
        Self { from, to: to.max(from + 1) }
    }

    /// Where a value stands, from 0 to 1.
    fn at(self, value: f64) -> f64 {
        (value.log10() - f64::from(self.from)) / f64::from(self.to - self.from)
    }
}

impl Plot {
    /// The picture; none of fewer than two points on every line.
    #[must_use]
    pub fn svg(&self) -> Option<String> {
        if self.lines.iter().all(|(_, points)| points.len() < 2) {
            return None;
        }
        let points = || self.lines.iter().flat_map(|(_, points)| points.iter().copied());
        let (across, up) = (Axis::over(points().map(|(x, _)| x)), Axis::over(points().map(|(_, y)| y)));
        let x = |value: f64| LEFT + across.at(value) * (WIDTH - LEFT - RIGHT);
        let y = |value: f64| HEIGHT - BOTTOM - up.at(value) * (HEIGHT - TOP - BOTTOM);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
             font-size=\"13\">\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n\
             <text x=\"{LEFT}\" y=\"20\" font-size=\"15\">{}</text>\n",
            escaped(&self.title)
        );
        let mut put = |line: String| {
            svg.push_str(&line);
            svg.push('\n');
        };
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        for decade in across.from..=across.to {
            let (at, label) = (x(10_f64.powi(decade)), power(decade));
            put(format!("<path d=\"M{at:.1} {TOP}V{bottom}\" stroke=\"#ddd\"/>"));
            put(format!(
                "<text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{label}</text>",
                bottom + 18.0
            ));
        }
        for decade in up.from..=up.to {
            let (at, label) = (y(10_f64.powi(decade)), power(decade));
            put(format!("<path d=\"M{LEFT} {at:.1}H{right}\" stroke=\"#ddd\"/>"));
            let (left, low) = (LEFT - 8.0, at + 4.0);
            put(format!("<text x=\"{left:.1}\" y=\"{low:.1}\" text-anchor=\"end\">{label}</text>"));
        }
        let (middle, low) = ((LEFT + right) / 2.0, HEIGHT - 12.0);
        put(format!(
            "<text x=\"{middle:.1}\" y=\"{low:.1}\" text-anchor=\"middle\">{}</text>",
            escaped(&self.across)
        ));
        let high = (TOP + bottom) / 2.0;
        put(format!(
            "<text x=\"16\" y=\"{high:.1}\" text-anchor=\"middle\" transform=\"rotate(-90 16 {high:.1})\">{}</text>",
            escaped(&self.up)
        ));
        for (n, (name, points)) in self.lines.iter().enumerate() {
            let colour = COLOURS[n % COLOURS.len()];
            let way: Vec<String> = points.iter().map(|(a, b)| format!("{:.1},{:.1}", x(*a), y(*b))).collect();
            put(format!(
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
                way.join(" ")
            ));
            for (a, b) in points {
                put(format!("<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3.5\" fill=\"{colour}\"/>", x(*a), y(*b)));
            }
            let from_left = LEFT + 150.0 * n as f64;
            put(format!("<circle cx=\"{from_left:.1}\" cy=\"36\" r=\"4\" fill=\"{colour}\"/>"));
            put(format!("<text x=\"{:.1}\" y=\"40\">{}</text>", from_left + 10.0, escaped(name)));
        }
        let _infallible = writeln!(svg, "</svg>");
        Some(svg)
    }
}

/// A power of ten as people write it.
fn power(decade: i32) -> String {
    match decade {
        0.. => {
            let digits = format!("1{}", "0".repeat(usize::try_from(decade).unwrap_or(0)));
            let (head, rest) = digits.split_at(digits.len() % 3);
            let groups = rest.as_bytes().chunks(3).map(|group| String::from_utf8_lossy(group).into_owned());
            let groups: Vec<String> = std::iter::once(head.to_owned()).chain(groups).collect();
            groups.iter().filter(|group| !group.is_empty()).cloned().collect::<Vec<_>>().join(",")
        }
        _ => format!("{}", 10_f64.powi(decade)),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::{Plot, power};

    #[test]
    fn points_stand_where_their_values_say() {
        let line = |points: &[(f64, f64)]| ("p99 < max".to_owned(), points.to_vec());
        let mut plot = Plot {
            lines: vec![line(&[(100.0, 1.0), (1_000.0, 10.0), (10_000.0, 100.0)])],
            ..Plot::default()
        };
        let svg = plot.svg().unwrap();
        // Corner to corner, through the middle.
        assert!(svg.contains("points=\"72.0,344.0 384.0,196.0 696.0,48.0\""), "{svg}");
        assert!(svg.contains(">1,000<") && svg.contains(">p99 &lt; max<"), "{svg}");
        plot.lines = vec![line(&[(100.0, 1.0)])];
        assert!(plot.svg().is_none(), "one point is no line");
        assert_eq!([power(0), power(5), power(6), power(-2)], ["1", "100,000", "1,000,000", "0.01"]);
    }
}
