package server

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	stsv1 "github.com/workload-sts/sts/gen/sts/v1"
)

// public are fields that have the word and no secret: what a token or an assertion is
// or is known by, where a page begins, and how a client is described.
var public = []string{"page_token", "_type", "_type_hint", "token_review", "client_assertion_type"}

// TestSecretFieldsAreMarked: fields of messages that carry a credential are marked as
// such in the protos, so that what writes messages down leaves them out [L-02].
func TestSecretFieldsAreMarked(t *testing.T) {
	marked := 0
	for _, file := range []protoreflect.FileDescriptor{stsv1.File_sts_v1_token_proto, stsv1.File_sts_v1_admin_proto} {
		for i := range file.Messages().Len() {
			fields := file.Messages().Get(i).Fields()
			for j := range fields.Len() {
				f := fields.Get(j)
				redacted := f.Options().(*descriptorpb.FieldOptions).GetDebugRedact()
				if redacted {
					marked++
				}
				name := string(f.Name())
				secret := f.Kind() == protoreflect.StringKind && !f.IsList() &&
					(strings.Contains(name, "secret") || name == "token" || strings.HasSuffix(name, "_token") || strings.HasSuffix(name, "assertion"))
				for _, p := range public {
					secret = secret && !strings.HasSuffix(name, p)
				}
				if secret && !redacted {
					t.Errorf("%s has a credential and is not marked debug_redact", f.FullName())
				}
			}
		}
	}
	if marked < 10 {
		t.Errorf("%d fields are marked", marked)
	}
}
