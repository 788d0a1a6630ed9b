//! Horizontal bars as SVG: a bar to the median, a line from the minimum to the maximum.

use plotters::prelude::{
    BLACK, Color as _, IntoDrawingArea as _, IntoFont as _, PathElement, RGBColor, Rectangle, SVGBackend, Text, WHITE,
};

use super::page::Chart;
use crate::Outcome;

const WIDTH: u32 = 900;
const LABEL_WIDTH: i32 = 330;
const VALUE_WIDTH: i32 = 110;
const HEAD: i32 = 40;
const LINE: i32 = 24;
const BAR: i32 = 16;
const FONT: (&str, i32) = ("sans-serif", 13);
const OURS: RGBColor = RGBColor(0xc0, 0x50, 0x20);
const THEIRS: RGBColor = RGBColor(0x60, 0x80, 0xa8);

/// The picture.
pub(crate) fn svg(chart: &Chart<'_>) -> Outcome<String> {
    let mut text = String::new();
    let lines = i32::try_from(chart.figures.len())?;
    let height = u32::try_from(HEAD + lines * LINE + 10)?;
    {
        let area = SVGBackend::with_string(&mut text, (WIDTH, height)).into_drawing_area();
        area.fill(&WHITE).map_err(told)?;
        let title = format!("{}, {}", chart.name, chart.unit);
        area.draw(&Text::new(title, (10, 10), ("sans-serif", 16).into_font())).map_err(told)?;
        let most = chart.figures.iter().map(|figure| figure.max).fold(f64::MIN_POSITIVE, f64::max);
        let mut top = HEAD;
        for figure in &chart.figures {
            let at = |value: f64| LABEL_WIDTH + pixels(value / most);
            let color = if figure.of.starts_with("Busbar") || figure.of.starts_with("busbar") { OURS } else { THEIRS };
            let bar = [(LABEL_WIDTH, top), (at(figure.median), top + BAR)];
            area.draw(&Text::new(figure.of.clone(), (10, top + 2), FONT.into_font())).map_err(told)?;
            area.draw(&Rectangle::new(bar, color.filled())).map_err(told)?;
            let middle = top + BAR / 2;
            area.draw(&PathElement::new([(at(figure.min), middle), (at(figure.max), middle)], BLACK)).map_err(told)?;
            let value = super::page::number(figure.median);
            area.draw(&Text::new(value, (at(figure.max.max(figure.median)) + 6, top + 2), FONT.into_font())).map_err(told)?;
            top += LINE;
        }
        area.present().map_err(told)?;
    }
    Ok(text)
}

/// How long a bar is that is such a part of the longest.
#[expect(clippy::cast_possible_truncation, reason = "a share of less than a thousand pixels")]
fn pixels(share: f64) -> i32 {
    let room = f64::from(i32::try_from(WIDTH).unwrap_or(i32::MAX) - LABEL_WIDTH - VALUE_WIDTH);
    (share.clamp(0.0, 1.0) * room).round() as i32
}

/// Errors of the library borrow the string that is drawn into.
fn told(error: impl std::fmt::Display) -> String {
    error.to_string()
}
