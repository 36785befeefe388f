package resource_test

import (
	"bytes"
	"testing"

	"google.golang.org/protobuf/proto"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
	"github.com/workload-sts/sts/sts/resource"
)

// FuzzDecodeResources checks that no file makes the reader panic, and that what
// it accepts survives being written and read again.
func FuzzDecodeResources(f *testing.F) {
	f.Add([]byte(manual))
	f.Add([]byte(canonical))
	f.Add([]byte(goodRule))
	f.Add([]byte(`[{"kind":"Audience","name":"a","max_ttl":"300s"},{"kind":"Client","name":"b"}]`))
	f.Add([]byte("kind: Rule\nname: &a x\nwhen: *a\n<<: {a: !!b c}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		docs, problems := resource.DecodeResources("f.yaml", data)
		var all []*stsv1.Resource
		for _, d := range docs {
			all = append(all, d.Resource)
			d.Positions.At(string(data[:min(len(data), 100)]))
		}
		var buf bytes.Buffer
		if err := resource.EncodeYAML(&buf, all...); err != nil {
			t.Fatalf("cannot write what was read: %v", err)
		}
		again, more := resource.DecodeResources("g.yaml", buf.Bytes())
		if len(more) > 0 || len(again) != len(docs) {
			t.Fatalf("%d of %d resources read again, problems %v (first: %v) in\n%s", len(again), len(docs), more, problems, buf.String())
		}
		for i := range again {
			if !proto.Equal(again[i].Resource, docs[i].Resource) {
				t.Fatalf("got %v, want %v in\n%s", again[i].Resource, docs[i].Resource, buf.String())
			}
		}
	})
}

// FuzzDecode is the same for the configuration, which is only read.
func FuzzDecode(f *testing.F) {
	f.Add([]byte("issuer: https://sts.example.com\nhttp: {listen: 127.0.0.1:1}\nlimits: {max_watches: 1, request_timeout: 5s}\n"), "http.listen")
	f.Add([]byte("- a\n- {b: c}\n"), `limits["x"][0].y`)
	f.Fuzz(func(t *testing.T, data []byte, path string) {
		pos, problems := resource.Decode("f.yaml", data, &stsv1.ServerConfig{})
		if _, line, column := pos.At(path); line < 1 || column < 1 {
			t.Errorf("At(%q) = %d:%d", path, line, column)
		}
		for _, p := range problems {
			if p.Message == "" || p.Line < 0 {
				t.Errorf("problem %+v", p)
			}
		}
	})
}
