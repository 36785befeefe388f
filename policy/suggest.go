package policy

import "fmt"

// DidYouMean returns a hint such as `; did you mean "payments"?` if a known name
// is near, else nothing.
func DidYouMean[V any](name string, known map[string]V) string {
	best, distance := "", 3
	for k := range known {
		if d := editDistance(name, k, distance+1); d < distance || d == distance && k < best {
			best, distance = k, d
		}
	}
	if best == "" || distance >= 3 || distance >= len(name) {
		return ""
	}
	return fmt.Sprintf("; did you mean %q?", best)
}

// editDistance is the Levenshtein distance, or most if it is not less.
func editDistance(a, b string, most int) int {
	if max(len(a)-len(b), len(b)-len(a)) >= most {
		return most
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
