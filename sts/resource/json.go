package resource

import (
	"bytes"
	"encoding/json"
	"fmt"

	"go.yaml.in/yaml/v3"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
)

// JSON returns a resource as [EncodeYAML] writes it, but as a JSON object in one
// line. [DecodeResources] reads it too, and arrays of such.
func JSON(r *stsv1.Resource) ([]byte, error) {
	n, err := resourceNode(r)
	if err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	writeJSON(&buf, n)
	return buf.Bytes(), nil
}

// writeJSON writes what the nodes of this file say as JSON.
func writeJSON(buf *bytes.Buffer, n *yaml.Node) {
	switch n.Kind {
	case yaml.SequenceNode:
		buf.WriteByte('[')
		for i, c := range n.Content {
			if i > 0 {
				buf.WriteByte(',')
			}
			writeJSON(buf, c)
		}
		buf.WriteByte(']')
	case yaml.MappingNode:
		buf.WriteByte('{')
		for i, c := range n.Content {
			switch {
			case i%2 == 1:
				buf.WriteByte(':')
			case i > 0:
				buf.WriteByte(',')
			}
			writeJSON(buf, c)
		}
		buf.WriteByte('}')
	default:
		if s, ok := plain(n); ok && n.Tag == "" && (s == boolean || s == number) {
			buf.WriteString(n.Value)
			return
		}
		writeJSONString(buf, n.Value)
	}
}

// writeJSONString escapes more than JSON asks for: what YAML does not want to
// see in a file, and terminals not on a screen.
func writeJSONString(buf *bytes.Buffer, s string) {
	quoted, _ := json.Marshal(s) // a string always has a JSON form
	for _, r := range string(quoted) {
		if r == 0x7f || r >= 0x80 && r < 0xa0 || r == 0xfeff || r == 0xfffe || r == 0xffff {
			fmt.Fprintf(buf, `\u%04x`, r)
		} else {
			buf.WriteRune(r)
		}
	}
}
