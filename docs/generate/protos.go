package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"

	"google.golang.org/genproto/googleapis/api/annotations"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
)

// protos are the descriptors of the wire contract, with their comments.
type protos struct{ files *protoregistry.Files }

func readProtos(image string) (*protos, error) {
	data, err := os.ReadFile(image)
	if err != nil {
		return nil, fmt.Errorf("%w; run `make workspace` first", err)
	}
	set := &descriptorpb.FileDescriptorSet{}
	if err := proto.Unmarshal(data, set); err != nil {
		return nil, err
	}
	files, err := protodesc.NewFiles(set)
	return &protos{files}, err
}

func (p *protos) message(name string) (protoreflect.MessageDescriptor, error) {
	d, err := p.files.FindDescriptorByName(protoreflect.FullName("sts.v1." + name))
	if err != nil {
		return nil, err
	}
	return d.(protoreflect.MessageDescriptor), nil
}

func comment(d protoreflect.Descriptor) string {
	text := d.ParentFile().SourceLocations().ByDescriptor(d).LeadingComments
	var out []string
	for line := range strings.Lines(text) {
		out = append(out, strings.TrimPrefix(strings.TrimRight(line, "\n"), " "))
	}
	return strings.TrimSpace(strings.Join(out, "\n"))
}

// inRow fits a comment into a cell of a table.
func inRow(s string) string {
	return strings.ReplaceAll(strings.Join(strings.Fields(s), " "), "|", `\|`)
}

const generated = "<!-- Made by `make generate` from the sources. Do not edit. -->\n\n"

// configuration lists every key of the configuration file.
func (p *protos) configuration(b *bytes.Buffer) error {
	m, err := p.message("ServerConfig")
	if err != nil {
		return err
	}
	fmt.Fprintf(b, "%s# Configuration of stsd\n\n%s\n\n`stsd check FILE` checks a file without starting.\n\n| key | type | |\n|---|---|---|\n", generated, comment(m))
	p.keys(b, m, "")
	return nil
}

func (p *protos) keys(b *bytes.Buffer, m protoreflect.MessageDescriptor, prefix string) {
	for i := range m.Fields().Len() {
		f := m.Fields().Get(i)
		name := prefix + string(f.Name())
		fmt.Fprintf(b, "| `%s` | %s | %s%s |\n", name, typeOf(f), inRow(comment(f)), alternatives(f))
		if f.Message() != nil && f.Message().ParentFile() == m.ParentFile() {
			if f.IsList() {
				name += "[]"
			}
			p.keys(b, f.Message(), name+".")
		}
	}
}

// alternatives names the keys of which only one is given.
func alternatives(f protoreflect.FieldDescriptor) string {
	o := f.ContainingOneof()
	if o == nil {
		return ""
	}
	var names []string
	for i := range o.Fields().Len() {
		names = append(names, "`"+string(o.Fields().Get(i).Name())+"`")
	}
	return " Give one of " + strings.Join(names, ", ") + "."
}

// typeOf names the type of a field as it is written in YAML.
func typeOf(f protoreflect.FieldDescriptor) string {
	switch {
	case f.IsMap():
		return "map of " + typeOf(f.MapValue())
	case f.IsList():
		return "list of " + single(f)
	default:
		return single(f)
	}
}

func single(f protoreflect.FieldDescriptor) string {
	if f.Message() == nil {
		return f.Kind().String()
	}
	switch f.Message().FullName() {
	case "google.protobuf.Duration":
		return "duration, such as `5m`"
	case "google.protobuf.Timestamp":
		return "time, such as `2027-01-31T12:00:00Z`"
	case "google.protobuf.Value":
		return "value"
	default:
		return string(f.Message().Name())
	}
}

func (p *protos) table(b *bytes.Buffer, m protoreflect.MessageDescriptor) {
	if m.Fields().Len() == 0 {
		return
	}
	fmt.Fprint(b, "| field | type | |\n|---|---|---|\n")
	for i := range m.Fields().Len() {
		f := m.Fields().Get(i)
		fmt.Fprintf(b, "| `%s` | %s | %s |\n", f.Name(), typeOf(f), inRow(comment(f)))
	}
	fmt.Fprintln(b)
}

// resources describes the five kinds and what they are made of.
func (p *protos) resources(b *bytes.Buffer) error {
	fmt.Fprintf(b, "%s# Resources\n\nFive kinds, the same in a file, through the admin API and in `stsctl get -o yaml`. A file holds any number of documents, each with `kind` beside the fields below. Files are read strictly: an unknown field is an error, and all problems are reported at once. A single value may stand where a list is expected.\n\n", generated)
	for _, name := range []string{"Client", "ClientTemplate", "SoftwareStatement", "ClientSecret", "ClientTls", "ClientSpiffe", "ClientSelfSigned", "Issuer", "Audience", "Rule", "Requester", "Party", "Require", "Limits", "Allow", "ScopesFromClaim", "MayAct", "Deny"} {
		m, err := p.message(name)
		if err != nil {
			return err
		}
		fmt.Fprintf(b, "## %s\n\n%s\n\n", name, comment(m))
		p.table(b, m)
	}
	return nil
}

// api describes the services, their methods and messages.
func (p *protos) api(b *bytes.Buffer) error {
	fmt.Fprintf(b, "%s# API\n\n"+endpoints, generated)
	for _, file := range []string{"token", "registration", "discovery", "admin"} {
		d, err := p.files.FindFileByPath("sts/v1/" + file + ".proto")
		if err != nil {
			return err
		}
		for i := range d.Services().Len() {
			p.service(b, d.Services().Get(i))
		}
		for i := range d.Messages().Len() {
			m := d.Messages().Get(i)
			fmt.Fprintf(b, "### %s\n\n%s\n\n", m.Name(), comment(m))
			p.table(b, m)
		}
	}
	return nil
}

const endpoints = `gRPC and HTTP meet at the same handlers. The endpoints that are not a method of a service below:

| path | method | |
|---|---|---|
| ` + "`/oauth2/token`" + ` | POST | The OAuth token endpoint: a form in, JSON out [RFC 6749 §3.2, RFC 8693 §2]. |
| ` + "`/oauth2/introspect`" + ` | POST | Introspection: a form in, JSON out, or a JWT if Accept asks for one [RFC 7662, RFC 9701]. |
| ` + "`/oauth2/revoke`" + ` | POST | Revocation by whom a token was issued to: a form in, nothing out [RFC 7009]. |
| ` + "`/oauth2/register`" + ` | POST | Dynamic registration of clients, if it is enabled: JSON in, JSON out, 201 [RFC 7591]. |
| ` + "`/oauth2/register/CLIENT_ID`" + ` | GET, PUT, DELETE | A registered client reads, changes and deletes its registration [RFC 7592]. |
| ` + "`/.well-known/openid-configuration`" + ` | GET | Provider metadata [OpenID Connect Discovery 1.0 §4]. |
| ` + "`/.well-known/oauth-authorization-server`" + ` | GET | The same [RFC 8414 §3]. |
| ` + "`/.well-known/jwks.json`" + ` | GET | The keys that verify tokens, with Cache-Control and ETag [RFC 7517 §5]. |
| ` + "`/healthz/live`" + ` | GET | 200 as long as the process serves. |
| ` + "`/healthz/ready`" + ` | GET | 200 if all capabilities are ready, else 503; JSON says which is not, and what it lacks: vault, storage, audit log or signing key. ` + "`?capability=issue`" + `, ` + "`verify`" + ` or ` + "`admin`" + ` asks for one. |
| ` + "`/metrics`" + ` | GET | Prometheus metrics. |
| ` + "`/openapi.json`" + ` | GET | All that is served over HTTP, in OpenAPI 3.1, with ETag; for generating clients, for gateways and for documentation. It is [gen/openapi/openapi.json](../../gen/openapi/openapi.json) with the issuer identifier as its server. |

The gRPC health service answers for ` + "`issue`, `verify`, `admin`" + `, for each service by its full name, and for the whole with an empty name.

`

func (p *protos) service(b *bytes.Buffer, s protoreflect.ServiceDescriptor) {
	fmt.Fprintf(b, "## %s\n\n%s\n\n", s.Name(), comment(s))
	for i := range s.Methods().Len() {
		m := s.Methods().Get(i)
		fmt.Fprintf(b, "### %s.%s\n\n%s`%s` → %s`%s`%s\n\n%s\n\n", s.Name(), m.Name(), streamOf(m.IsStreamingClient()), m.Input().Name(), streamOf(m.IsStreamingServer()), m.Output().Name(), httpOf(m), comment(m))
	}
}

func streamOf(many bool) string {
	if many {
		return "stream of "
	}
	return ""
}

// httpOf says where a method is in the JSON API.
func httpOf(m protoreflect.MethodDescriptor) string {
	rule, ok := proto.GetExtension(m.Options(), annotations.E_Http).(*annotations.HttpRule)
	if !ok || rule == nil {
		return ""
	}
	switch pattern := rule.Pattern.(type) {
	case *annotations.HttpRule_Get:
		return ", `GET " + pattern.Get + "`"
	case *annotations.HttpRule_Post:
		return ", `POST " + pattern.Post + "`"
	case *annotations.HttpRule_Delete:
		return ", `DELETE " + pattern.Delete + "`"
	default:
		return ""
	}
}
