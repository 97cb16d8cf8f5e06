//! Draws the chart of encryption costs from the figures of the bench.

use std::fmt::Write;

/// The figures of one cipher.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    /// Throughput of seal and open, in GB/s.
    pub(crate) speed: [f64; 2],
    /// Processor time relative to a plain database, for each workload.
    pub(crate) ratios: Vec<f64>,
}

const LABEL: f64 = 140.0;
const BAR: f64 = 300.0;
const CELL: f64 = 78.0;
const LINE: f64 = 34.0;
const TOP: f64 = 64.0;

/// Draws bars for throughput, and cells for ratios, darker for higher cost.
pub(crate) fn draw(workloads: &[&str], rows: &[Row]) -> String {
    let fastest = rows.iter().flat_map(|row| row.speed).fold(1.0, f64::max);
    let cells = LABEL + BAR + 90.0;
    let width = cells + CELL * workloads.len() as f64 + 16.0;
    let height = TOP + LINE * rows.len() as f64 + 16.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"16\" y=\"22\" font-size=\"14\" font-weight=\"600\" fill=\"#1f2328\">Pages of 4 KiB, GB/s: sealed (dark) and \
         opened (light); and processor time of SQL, to plain SQLite</text>\n"
    );
    for (at, workload) in workloads.iter().enumerate() {
        let x = cells + CELL * (at as f64 + 0.5);
        let _never_fails = writeln!(
            svg,
            "<text x=\"{x}\" y=\"{}\" text-anchor=\"middle\" font-size=\"10\" fill=\"#57606a\">{workload}</text>",
            TOP - 10.0
        );
    }
    for (at, row) in rows.iter().enumerate() {
        let y = TOP + LINE * at as f64;
        let _never_fails = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\" fill=\"#1f2328\">{}</text>",
            LABEL - 8.0,
            y + 18.0,
            row.name
        );
        for (part, (speed, color)) in row.speed.iter().zip(["#0969da", "#80ccff"]).enumerate() {
            let (y, width) = (y + 2.0 + 13.0 * part as f64, BAR * speed / fastest);
            let _never_fails = writeln!(
                svg,
                "<rect x=\"{LABEL}\" y=\"{y}\" width=\"{width:.1}\" height=\"12\" fill=\"{color}\"/>\
                 <text x=\"{:.1}\" y=\"{}\" font-size=\"10\" fill=\"#57606a\">{speed:.1}</text>",
                LABEL + width + 4.0,
                y + 10.0
            );
        }
        for (column, ratio) in row.ratios.iter().enumerate() {
            let x = cells + CELL * column as f64;
            let depth = ((ratio - 1.0) / 2.0).clamp(0.0, 1.0);
            let _never_fails = writeln!(
                svg,
                "<rect x=\"{x}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"#cf222e\" fill-opacity=\"{:.2}\"/>\
                 <text x=\"{}\" y=\"{}\" text-anchor=\"middle\" fill=\"#1f2328\">{ratio:.2} ×</text>",
                y + 2.0,
                CELL - 4.0,
                LINE - 8.0,
                0.06 + 0.6 * depth,
                x + CELL / 2.0 - 2.0,
                y + 19.0
            );
        }
    }
    svg + "</svg>\n"
}
