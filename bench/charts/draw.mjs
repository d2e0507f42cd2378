import { parse, View } from 'vega';
import { compile } from 'vega-lite';

const OURS = 'Outbox Bridge';

/** A chart of the report (bench-case.ts) as an SVG: one bar for each label, the product's in its own colour. */
export async function draw({ title, unit, logarithmic = false, bars }) {
  const figure = {
    field: 'figure',
    type: 'quantitative',
    title: unit,
    scale: logarithmic ? { type: 'log', domainMin: Math.min(...bars.map((bar) => bar.figure)) / 2 } : {},
    axis: { grid: false, tickCount: 5 },
  };
  const label = { field: 'label', type: 'nominal', title: null, sort: null, axis: { labelLimit: 300 } };
  const { spec } = compile({
    width: 460,
    height: { step: 30 },
    padding: 12,
    background: 'white',
    title: { text: title, anchor: 'start', offset: 12, fontSize: 14 },
    config: {
      font: 'Helvetica, Arial, sans-serif',
      view: { stroke: null },
      axis: { labelFontSize: 12, titleFontSize: 12, titleFontWeight: 'normal' },
    },
    data: { values: bars },
    encoding: { y: label },
    layer: [
      {
        mark: { type: 'bar', cornerRadiusEnd: 2, height: { band: 0.65 } },
        encoding: {
          x: figure,
          // A bar of a logarithmic scale begins where the scale does.
          ...(logarithmic && { x2: { datum: figure.scale.domainMin } }),
          color: {
            condition: { test: `datum.label === '${OURS}'`, value: '#0f766e' },
            value: '#a8b3bd',
          },
        },
      },
      {
        mark: { type: 'text', align: 'left', dx: 5, fontSize: 12 },
        encoding: { x: figure, text: { field: 'figure', format: ',.3~r' } },
      },
    ],
  });
  return `${await new View(parse(spec), { renderer: 'none' }).toSVG()}\n`;
}
