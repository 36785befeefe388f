package policy

import "fmt"

// DidYouMean returns a hint such as `; did you mean "payments"?` if a known name
// is near, else nothing.
func DidYouMean[V any](name string, known map[string]V) string {
	best := nearest(name, known)
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %q?", best)
}

// nearest is the known name that differs in a character or two, if there is one. Of
// a short name two are most of it.
func nearest[V any](name string, known map[string]V) string {
	best, distance := "", 3
	for k := range known {
		if d := editDistance(name, k, distance+1); d < distance || d == distance && k < best {
			best, distance = k, d
		}
	}
	if distance >= len(name) || distance > 1 && len(name) <= 4 {
		return ""
	}
	return best
}

// editDistance counts the characters that differ, two that are swapped as one, or is
// most if it is not less.
func editDistance(a, b string, most int) int {
	if max(len(a)-len(b), len(b)-len(a)) >= most {
		return most
	}
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before, last, row = last, row, before
		row[0] = i + 1
		for j := range len(b) {
			row[j+1] = last[j]
			if a[i] != b[j] {
				row[j+1] = 1 + min(last[j], row[j], last[j+1])
			}
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], 1+before[j-1])
			}
		}
	}
	return min(row[len(b)], most)
}
