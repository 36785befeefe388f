package resource

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// Problem is one thing wrong with a file, for the person who wrote it.
type Problem struct {
	File    string
	Line    int    // from 1; 0 if the problem is the file as a whole
	Column  int    // from 1, in characters
	Path    string // of the value, such as allow.audiences[0]; may be empty
	Message string // what is wrong and what to do, one line
}

// String returns `file:line:column: path: message`, which editors can jump to.
func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", p.Line, p.Column)
	}
	b.WriteString(": ")
	if p.Path != "" {
		b.WriteString(p.Path + ": ")
	}
	b.WriteString(p.Message)
	return b.String()
}

// path is where a value is in its document, as a list that grows at its end. It
// is made a string only when there is something to say.
type path struct {
	parent *path
	key    string
	index  int // used if key is empty
}

func (p *path) String() string {
	if p == nil {
		return ""
	}
	front := p.parent.String()
	switch {
	case p.key == "":
		return fmt.Sprintf("%s[%d]", front, p.index)
	case !plainKey(p.key):
		return front + "[" + quote(p.key) + "]"
	case front == "":
		return p.key
	}
	return front + "." + p.key
}

// plainKey reports whether a key needs no quotes in a path.
func plainKey(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9') && c != '_' && c != '-' {
			return false
		}
	}
	return len(s) <= maxQuoted
}

// maxQuoted bounds how much of a file appears in a message, in bytes.
const maxQuoted = 64

// quote returns a word of the file, safe to print and not too long.
func quote(s string) string {
	if len(s) <= maxQuoted {
		return strconv.Quote(s)
	}
	cut := maxQuoted
	for !utf8.RuneStart(s[cut]) {
		cut--
	}
	return strconv.Quote(s[:cut] + "…")
}

// Positions finds the places of a document's values.
type Positions struct {
	file string
	root *yaml.Node // nil for an empty file
}

// At returns the place of a value by its path, such as allow.audiences[0] or
// subject.claims.ref, or, where there is no such value, that of the nearest one
// around it. A key is found whether the path quotes it (claims["a.b"]) or not
// (claims.a.b). Line and column count from 1.
func (p *Positions) At(path string) (file string, line, column int) {
	line, column = 1, 1
	n := p.root
	if n != nil {
		line, column = n.Line, n.Column
	}
	for n != nil && path != "" {
		var key *yaml.Node
		key, n, path = step(n, strings.TrimPrefix(path, "."))
		switch {
		case n == nil:
		case key == nil || n.Kind == yaml.ScalarNode:
			line, column = n.Line, n.Column
		default:
			line, column = key.Line, key.Column
		}
	}
	return p.file, line, column
}

// step follows the first segment of path into n. It returns nil where there is
// nothing; key is nil for an element of a list.
func step(n *yaml.Node, path string) (key, value *yaml.Node, rest string) {
	switch n.Kind {
	case yaml.SequenceNode:
		index, rest, ok := strings.Cut(strings.TrimPrefix(path, "["), "]")
		i, err := strconv.Atoi(index)
		if !ok || err != nil || i < 0 || i >= len(n.Content) {
			return nil, nil, ""
		}
		return nil, n.Content[i], rest
	case yaml.MappingNode:
		if quoted, err := strconv.QuotedPrefix(strings.TrimPrefix(path, "[")); err == nil {
			name, _ := strconv.Unquote(quoted) // QuotedPrefix has checked it
			_, rest, _ := strings.Cut(path, quoted+"]")
			key, value := entry(n, name)
			return key, value, rest
		}
		// The longest key wins: claims.a.b is the key "a.b" before "a".
		for i := 0; i+1 < len(n.Content); i += 2 {
			k := n.Content[i]
			after, ok := strings.CutPrefix(path, k.Value)
			if !ok || after != "" && after[0] != '.' && after[0] != '[' {
				continue
			}
			if key == nil || len(k.Value) > len(key.Value) {
				key, value, rest = k, n.Content[i+1], after
			}
		}
		return key, value, rest
	}
	return nil, nil, ""
}

// entry returns the first entry of a mapping with a key, or nil.
func entry(n *yaml.Node, name string) (key, value *yaml.Node) {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if k := n.Content[i]; k.Kind == yaml.ScalarNode && k.Value == name {
			return k, n.Content[i+1]
		}
	}
	return nil, nil
}

// member returns the value of a key of a mapping, or nil.
func member(n *yaml.Node, name string) *yaml.Node {
	_, v := entry(n, name)
	return v
}

// nearest returns the known word that was probably meant, or "".
func nearest(word string, known []string) string {
	if len(word) > maxQuoted {
		return ""
	}
	best, distance := "", 1+len(word)/3
	for _, k := range known {
		if d := edits(fold(word), fold(k)); d < distance || d == 0 {
			best, distance = k, d
		}
	}
	return best
}

// fold makes maxTTL, max-ttl and max_ttl the same word.
func fold(s string) string {
	return strings.ToLower(strings.NewReplacer("_", "", "-", "", " ", "").Replace(s))
}

// edits is the number of insertions, deletions, replacements and swaps of
// neighbours that make a into b.
func edits(a, b string) int {
	before, last := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row := make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(row[j-1]+1, last[j]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}
