/** Durations, money and short times as people read them: the twin of rendering/quantities.py. */

export function durationText(seconds) {
  const whole = Math.max(Math.floor(seconds), 0);
  for (const [unit, size, nextUnit, nextSize] of [["d", 86400, "h", 3600], ["h", 3600, "m", 60], ["m", 60, "s", 1]]) {
    if (whole < size) continue;
    const rest = Math.floor((whole % size) / nextSize);
    return `${Math.floor(whole / size)}${unit}${rest ? ` ${rest}${nextUnit}` : ""}`;
  }
  return `${whole}s`;
}

export function moneyText(dollars) {
  if (dollars === 0) return "$0";
  if (dollars < 0.0001) return "<$0.0001";
  return dollars < 0.01 ? `$${Number(dollars.toPrecision(2))}` : `$${dollars.toFixed(2)}`;
}

export function secondsText(seconds) {
  if (seconds < 0.001) return `${(seconds * 1000).toFixed(1)} ms`;
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  return seconds < 10 ? `${seconds.toFixed(1)} s` : `${Math.round(seconds)} s`;
}
