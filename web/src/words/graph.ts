import dagre from "@dagrejs/dagre";
import type { Step } from "@/words/steps";

export interface Placed {
  step: Step;
  left: number;
  top: number;
}

export interface Drawn {
  nodes: Placed[];
  /** Each edge as the path of an SVG, with its ends. */
  edges: { from: string; to: string; path: string }[];
  width: number;
  height: number;
}

export const NODE_WIDTH = 168;
export const NODE_HEIGHT = 52;

/** Every step in a place of its own, to the right of what it needs. */
export function drawn(steps: readonly Step[]): Drawn {
  const graph = new dagre.graphlib.Graph();
  graph.setGraph({ rankdir: "LR", nodesep: 16, ranksep: 48, marginx: 8, marginy: 8 });
  graph.setDefaultEdgeLabel(() => ({}));
  const known = new Set(steps.map(({ id }) => id));
  // Names are the reader's; `__proto__` as a key of dagre's own objects would be a mischief, so places are numbered.
  const places = new Map(steps.map(({ id }, index) => [id, `n${index}`]));
  for (const { id } of steps) graph.setNode(places.get(id)!, { width: NODE_WIDTH, height: NODE_HEIGHT });
  for (const { id, needs } of steps) {
    for (const need of needs) if (known.has(need)) graph.setEdge(places.get(need)!, places.get(id)!);
  }
  dagre.layout(graph);
  const at = (id: string) => graph.node(places.get(id)!) as { x: number; y: number };
  const { width = 0, height = 0 } = graph.graph() as { width?: number; height?: number };
  return {
    nodes: steps.map((step) => ({ step, left: at(step.id).x - NODE_WIDTH / 2, top: at(step.id).y - NODE_HEIGHT / 2 })),
    edges: steps.flatMap(({ id, needs }) =>
      needs.filter((need) => known.has(need)).map((need) => ({ from: need, to: id, path: curve(at(need), graph.edge(places.get(need)!, places.get(id)!).points, at(id)) })),
    ),
    width,
    height,
  };
}

interface Point {
  x: number;
  y: number;
}

/** From the right of one step to the left of the other; a long edge goes where dagre leads it, past what is between. */
function curve(from: Point, led: readonly Point[], to: Point): string {
  const between = led.length > 3 ? led.slice(1, -1) : [];
  const points = [{ x: from.x + NODE_WIDTH / 2, y: from.y }, ...between, { x: to.x - NODE_WIDTH / 2, y: to.y }];
  return points
    .map((point, index) => {
      const before = points[index - 1];
      if (!before) return `M ${point.x} ${point.y}`;
      const bend = (point.x - before.x) / 2;
      return `C ${before.x + bend} ${before.y}, ${point.x - bend} ${point.y}, ${point.x} ${point.y}`;
    })
    .join(" ");
}
