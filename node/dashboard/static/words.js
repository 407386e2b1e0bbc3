// Numbers and times in words: the same everywhere on the page.

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

export function bytes(value) {
  if (value === null || value === undefined) return "–";
  let unit = 0;
  while (value >= 1024 && unit < UNITS.length - 1) { value /= 1024; unit += 1; }
  return `${unit && value < 100 ? value.toFixed(1) : Math.round(value)} ${UNITS[unit]}`;
}

export function seconds(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const sign = value < 0 ? "-" : "";
  value = Math.abs(value);
  if (value < 1) return `${sign}${Math.round(value * 1000)} ms`;
  if (value < 10) return `${sign}${value.toFixed(1)} s`;
  if (value < 120) return `${sign}${Math.round(value)} s`;
  if (value < 7200) return `${sign}${Math.round(value / 60)} min`;
  if (value < 172800) return `${sign}${(value / 3600).toFixed(1)} h`;
  return `${sign}${Math.round(value / 86400)} days`;
}

export function latency(value) {
  if (value === null || value === undefined) return "–";
  return value >= 1 ? seconds(value) : `${(1000 * value).toFixed(value < 0.00995 ? 1 : 0)} ms`;
}

export function percent(value) {
  return value === null || value === undefined ? "–" : `${(100 * value).toFixed(value < 0.1 ? 1 : 0)} %`;
}

export function decimal(value, digits = 4) {
  return value === null || value === undefined ? "–" : Number(value).toFixed(digits);
}

export function whole(value) {
  return value === null || value === undefined ? "–" : Number(value).toLocaleString("en");
}

export function date(ms) {
  return ms ? new Date(ms).toISOString().replace("T", " ").slice(0, 19) + " UTC" : "–";
}

export function counted(number, noun) {
  return `${whole(number)} ${number === 1 ? noun : noun.endsWith("y") ? noun.slice(0, -1) + "ies" : noun + "s"}`;
}

/** Rounds in words, neighbours together: "3, 5 to 7". */
export function ranges(numbers) {
  const parts = [];
  for (let i = 0; i < numbers.length; i += 1) {
    let end = i;
    while (numbers[end + 1] === numbers[end] + 1) end += 1;
    parts.push(end > i + 1 ? `${numbers[i]} to ${numbers[end]}` : numbers.slice(i, end + 1).join(", "));
    i = end;
  }
  return parts.join(", ");
}
